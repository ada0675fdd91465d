import pytest

from resnet_jax.commands.configs import load
from resnet_jax.config.files import CONFIGS
from resnet_jax.configs import recipes
from resnet_jax.lab.report.recipes import compare, read_sources, unnamed

FILE = CONFIGS / "sources.toml"
SOURCES = read_sources(FILE)


@pytest.mark.parametrize("name", SOURCES)
def test_a_recipe_has_the_values_of_its_source_and_names_each_that_differs(name):
    source = SOURCES[name]
    config = load(source.config)
    rows = compare(source, config)
    print(f"\n{source.config}: {source.source}")
    for row in rows:
        print(f"{row.field:34}{row.ours!s:24}{row.theirs!s:24}{row.verdict or row.where}")
    assert [row.field for row in rows if row.verdict == "UNEXPLAINED"] == []
    assert unnamed(source, config) == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_file_or_page_of_each_field_is_named(name):
    source = SOURCES[name]
    assert source.source and source.published
    assert {field.partition(".")[0] for field in (*source.values, *source.differs)} <= {*source.where, "parallel"}


def test_every_published_recipe_has_a_source():
    configs = {source.config.partition(":")[2] for source in SOURCES.values()}
    assert configs == {*recipes.IMAGENET, "resnet20", "resnext29_8x64d"}
    small = {source.config.partition(":")[2] for source in SOURCES.values() if "resnet18.py" in source.config}
    assert small == {recipe for recipe, network in recipes.OF_NETWORK if network == "resnet18"}


def test_another_value_a_reason_without_a_difference_and_a_field_without_an_entry_are_found():
    source = SOURCES["ffcv_16"]
    config = load(source.config)
    config.optimizer.momentum = 0.8
    config.model.dtype = "float16"
    config.training.microbatches = 2
    unexplained = [row.field for row in compare(source, config) if row.verdict == "UNEXPLAINED"]
    assert unexplained == ["model.dtype", "optimizer.momentum"]
    assert unnamed(source, config) == ["training.microbatches"]


def test_an_entry_takes_from_another_all_that_it_does_not_say(tmp_path):
    file = tmp_path / "sources.toml"
    file.write_text(
        """
        [one]
        config = "a"
        source = "b"
        published = {}
        values = { "x.y" = 1, "x.z" = 2, "x.w" = 3 }
        differs = { "x.v" = [4, "why"] }
        [two]
        like = "one"
        without = ["x.w"]
        values = { "x.y" = 5, "x.v" = 6 }
        differs = { "x.z" = [7, "because"] }
        """
    )
    two = read_sources(file)["two"]
    assert two.values == {"x.y": 5, "x.v": 6}
    assert two.differs == {"x.z": (7, "because")}
