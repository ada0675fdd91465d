"""The commands of the pages name runs and weights that exist once the other commands were given."""

import importlib
import pathlib
import re

import pytest

from resnet_jax.lab.sweep import is_sweep
from resnet_jax.weights.presets import presets

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")))]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
READERS = re.compile(r"python -m resnet_jax (?:analyze|report|predict|convert) .*")


def expanded(text):
    """What a shell makes of one pair of braces."""
    found = re.fullmatch(r"(.*?)\{(.*?)\}(.*)", text)
    return [f"{found[1]}{each}{found[3]}" for each in found[2].split(",")] if found else [text]


def made():
    """The folders that commands of pages, Makefile and script train into, with the file and argument of the config."""
    commands = "\n".join([*TEXTS.values(), (ROOT / "Makefile").read_text()])
    trained = re.findall(r"--config=(?:configs/)?(\S+?)\.py(?::(\S+))? --workdir=(\S+)", commands)
    folders = {folder: (file.replace("/", "."), argument) for file, argument, folder in trained}
    script = (ROOT / "benchmarks" / "analysis_digits.sh").read_text()
    [runs], [names] = re.findall(r"^runs=(\S+)", script, re.M), re.findall(r"^for name in (.+); do", script, re.M)
    return folders | {f"{runs}/{name}": ("digits", "") for name in names.split()}


def exists(run):
    """Whether a command makes a run: as a folder of its own, or as a run of a sweep."""
    folders = made()
    for folder, (file, argument) in folders.items():
        if run == folder:
            return True
        if run.startswith(f"{folder}/"):
            config = importlib.import_module(f"resnet_jax.configs.{file}").get_config(*([argument] if argument else []))
            label, _, seed = run.removeprefix(f"{folder}/").partition("/seed")
            return is_sweep(config) and label in [each.label for each in config.variants] and int(seed) in config.seeds
    return False


@pytest.mark.parametrize("page", PAGES)
def test_the_runs_that_a_page_reads_are_made_by_a_command(page):
    named = [run for command in READERS.findall(TEXTS[page]) for word in command.split() for run in expanded(word)]
    runs = [run for run in named if run.startswith("runs/")]
    assert [run for run in runs if not exists(run)] == []
    if page in ("README.md", "docs/lessons.md"):
        assert len(runs) >= 3


@pytest.mark.parametrize("page", PAGES)
def test_the_weights_that_a_page_names_by_their_file_are_published_under_that_name(page):
    files = {file for file in re.findall(r"[\w.-]+-[0-9a-f]{8}\.(?:pth|th)\b", TEXTS[page])}
    assert files <= {preset.file for preset in presets().values()}


def test_the_benchmarks_that_a_page_names_without_a_folder_leave_the_records_as_they_are():
    script = (ROOT / "benchmarks" / "analysis_digits.sh").read_text()
    assert re.search(r"^out=\$\{1:-runs/", script, re.M)
    for page, text in TEXTS.items():
        assert not re.search(r"studies\.py [^`\n]*--out=results", text), page
