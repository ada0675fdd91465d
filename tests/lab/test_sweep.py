import importlib
import json
import pathlib

import pytest

from resnet_jax.config import default_config
from resnet_jax.errors import ConfigError
from resnet_jax.lab.report.published import find_published
from resnet_jax.lab.sweep import Variant, chosen, description, is_sweep, sweep, trials
from resnet_jax.models.registry import create_model, image_shape
from resnet_jax.models.summary import costs

ROOT = pathlib.Path(__file__).parents[2]
SWEEPS = sorted(file.stem for file in (ROOT / "configs" / "sweeps").glob("[a-z]*.py") if file.stem != "scales")
TEXTS = dict(title="T", question="Q?", source="S", finding="F.", axis="layers")


def small(variants=None, **fields):
    variants = variants or [Variant(label=name, fields={"model.name": f"cifar_{name}"}) for name in ("b9", "a8")]
    return sweep(default_config(), variants, **TEXTS | fields)


def shipped(name, scale):
    return importlib.import_module(f"resnet_jax.configs.sweeps.{name}").get_config(scale)


def test_runs_are_ordered_by_seed_and_then_as_the_file_has_the_variants():
    made = trials(small(seeds=(3, 1)))
    assert [trial.name for trial in made] == ["b9/seed3", "a8/seed3", "b9/seed1", "a8/seed1"]
    assert [trial.number for trial in made] == [0, 1, 2, 3]
    assert [(trial.config.model.name, trial.config.training.seed) for trial in made[1:3]] == [
        ("cifar_a8", 3),
        ("cifar_b9", 1),
    ]


def test_a_variant_changes_its_own_run_only():
    config = small([Variant(label="a", fields={"optimizer.momentum": 0.5}), Variant(label="b", fields={})])
    assert [trial.config.optimizer.momentum for trial in trials(config)] == [0.5, 0.9] * 3
    assert config.base.optimizer.momentum == 0.9


def test_runs_are_chosen_by_number_name_or_variant():
    made = trials(small())
    assert chosen(made, None) == made
    assert [trial.number for trial in chosen(made, "3")] == [3]
    assert [trial.number for trial in chosen(made, "a8/seed1")] == [3]
    assert [trial.number for trial in chosen(made, "a8")] == [1, 3, 5]
    with pytest.raises(ConfigError, match="no variant is called 'a9': give a number from 0 to 5, or one of b9, a8"):
        chosen(made, "a9")
    with pytest.raises(ConfigError, match="no variant is called '6'"):
        chosen(made, "6")


@pytest.mark.parametrize(
    ("variants", "fields", "said"),
    [
        ([Variant(label="a", fields={"model.nme": "x"})], {}, "'a' sets model.nme to 'x'"),
        ([Variant(label="a", fields={"training.epochs": "many"})], {}, "'a' sets training.epochs to 'many'"),
        ([Variant(label="a", fields={"training.epochs.x": 1})], {}, "'a' sets training.epochs.x"),
        ([Variant(label="a", fields={})] * 2, {}, "each label once"),
        ([Variant(label="8", fields={})], {}, "not of digits alone"),
        ([Variant(label="../a", fields={})], {}, "a variant is called"),
        ([Variant(label="a", fields={})], dict(seeds=()), "seeds is"),
        ([Variant(label="a", fields={})], dict(seeds=(1, 1)), "each seed once"),
        ([Variant(label="a", fields={})], dict(seeds=(-1,)), "seeds is"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_in_a_sentence(variants, fields, said):
    with pytest.raises(ConfigError, match=said):
        trials(small(variants, **fields))


def test_the_description_is_json_and_has_what_a_report_needs():
    told = json.loads(json.dumps(description(small())))
    assert told["title"] == "T" and told["variants"][0]["label"] == "b9" and "base" not in told


def test_a_run_is_no_sweep():
    assert is_sweep(small()) and not is_sweep(default_config())


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_on_sweeps_has_a_row_for_each(name):
    assert f"\n| `{name}` | " in (ROOT / "docs" / "sweeps.md").read_text()


@pytest.mark.parametrize("name", SWEEPS)
def test_the_shipped_sweeps_have_runs_at_every_scale_and_their_published_results_exist(name):
    scales = 0
    for scale, dataset in (("digits", None), ("cifar10", "cifar10"), ("imagenet", "imagenet")):
        try:
            config = shipped(name, scale)
        except ConfigError as error:
            assert f"has no scale {scale!r}" in str(error) and "digits, cifar10" in str(error)
            continue
        scales += 1
        made = trials(config)
        assert len(made) == 3 * len(config.variants) >= 6
        for trial in made[: len(config.variants)]:
            overrides = {k: v for k, v in trial.config.model.overrides.items() if v is not None}
            create_model(trial.config.model.name, **overrides).feature_info()  # which checks the fields
        for variant in config.variants:
            if dataset and variant.published:
                assert find_published(variant.published, dataset), variant.published
    assert scales >= 2


@pytest.mark.parametrize(("name", "scale", "spread"), [("cardinality", "digits", 1.06), ("densenet", "digits", 1.05)])
def test_what_is_said_to_be_of_equal_cost_is(name, scale, spread):
    config = shipped(name, scale)
    found = []
    for trial in trials(config)[: len(config.variants)]:
        overrides = {k: v for k, v in trial.config.model.overrides.items() if v is not None}
        network = trial.config.model.name
        found.append(costs(create_model(network, **overrides), image_shape(network)).macs)
    pairs = [found] if name == "cardinality" else [found[:2], found[2:]]
    for equal in pairs:
        assert max(equal) / min(equal) < spread
