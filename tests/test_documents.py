"""The commands of the pages name runs and weights that exist once the other commands were given."""

import argparse
import importlib
import pathlib
import re
import shlex

import pytest

from resnet_jax.commands import train
from resnet_jax.lab.sweep import is_sweep
from resnet_jax.weights.presets import presets

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")))]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
READERS = re.compile(r"python -m resnet_jax (?:analyze|report|predict|convert) [^`\n]*")


def expanded(text):
    """What a shell makes of one pair of braces."""
    found = re.fullmatch(r"(.*?)\{(.*?)\}(.*)", text)
    return [f"{found[1]}{each}{found[3]}" for each in found[2].split(",")] if found else [text]


def made():
    """The folders that commands of pages, Makefile and script train into, with the file and argument of the config."""
    commands = "\n".join([*TEXTS.values(), (ROOT / "Makefile").read_text()])
    trained = re.findall(r"--config=(?:configs/)?(\S+?)\.py(?::(\S+))? --workdir=([^\s`]+)", commands)
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


OWN_CONFIG = "--config=mine.py"  # a reader's own file


def commands(page):
    """The commands of a page's code blocks that start the project, each as the arguments of `resnet-jax`."""
    text = TEXTS[page].replace("\\\n", " ")
    starts = {("python", "main.py"): ["train"], ("python", "-m", "resnet_jax"): [], ("resnet-jax",): []}
    for line in re.findall(r"^ *(?:srun )?((?:python (?:main\.py|-m resnet_jax)|resnet-jax) .*)$", text, re.M):
        if " [" in line:  # a line of usage
            continue
        words = shlex.split(re.split(r"  +# |  {2,}| [|&>]", line)[0], comments=True)
        for start, verb in starts.items():
            if tuple(words[: len(start)]) == start:
                yield verb + words[len(start) :]


def understood(arguments):
    """Raise an error or exit with 2 unless a command's verb, flags and config are known; run nothing."""
    verb, *rest = arguments
    if verb == "train":
        if not {"--help", "--version"} & set(rest) and not any("--help=" in word for word in rest):
            named = ("--config=digits" if word == OWN_CONFIG else word for word in rest if "--workdir" not in word)
            values = train.parse(["train", *named])
            assert values.config is not None
        return
    command = importlib.import_module(f"resnet_jax.commands.{verb}")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.parse_args(rest)


@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in commands(page))])
def test_every_command_of_a_page_is_understood(page):
    for arguments in commands(page):
        resumes = arguments[0] == "train" and not any(word.startswith("--config=") for word in arguments)
        if resumes and arguments[1].startswith("--workdir"):
            continue  # the config is that of the run, which `test_the_runs_that_a_page_reads...` holds to a command
        try:
            understood(arguments)
        except (SystemExit, Exception) as error:
            raise AssertionError(f"{page}: {' '.join(arguments)}") from error


@pytest.mark.parametrize("page", PAGES)
def test_every_field_that_a_page_sets_exists_and_takes_the_value(page):
    for flag in re.findall(r"--config\.[\w.]+=(?:\"[^\"]*\"|\([^)]*\)|[^\s`)|\]]+)", TEXTS[page]):
        name, _, value = flag.partition("=")
        if "any.field" in name or value in ("VALUE", "...") or "$" in value:
            continue
        config = "sweeps/shortcuts" if ".base." in name or name == "--config.seeds" else "finetune"
        values = train.parse(["train", config, f"{name}={value.strip(chr(34))}"])
        assert values.config is not None, flag
