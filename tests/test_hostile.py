"""Inputs that are damaged or made to do harm: a sentence at most, never a traceback, a hang or a file elsewhere."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main as command
from resnet_jax import __main__ as commands
from resnet_jax.config import default_config, flat
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.sources.records import verify
from resnet_jax.data.transforms import ResizeCenterCrop
from resnet_jax.errors import CheckpointError, ConfigError, DataError, UserError
from resnet_jax.lab.report.document import to_html, to_markdown
from resnet_jax.lab.report.page import page
from resnet_jax.lab.report.prediction import draw_prediction
from resnet_jax.lab.report.runs import find
from resnet_jax.models.registry import create_model
from resnet_jax.printable import printable
from resnet_jax.run.checkpoints import WRITTEN_LAST, Checkpoints, read_variables
from resnet_jax.run.checksums import write_checksums
from resnet_jax.run.curves import draw_curves
from resnet_jax.run.metrics import read_metrics
from resnet_jax.run.stored_arrays import SAME, sound_shape
from resnet_jax.run.workdir import RunDirectory
from resnet_jax.weights.files import read_arrays
from resnet_jax.weights.presets import of_weights
from tests.pictures import noise

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = pathlib.Path(__file__).parent / "golden"
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
METRICS = "metrics.jsonl"
DEEP = b"[" * 100_000


# The other two would look for data and hosts in the network.
NAMES = sorted({name for name, _ in flat(default_config())} - {"data.source", "parallel.coordinator"})
ODD = [
    "",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 30,
    "()",
    "(0,)",
    "(1,",
    "((1,),)",
    "None",
    "True",
    "\x00",
    "é",
    "[]",
]
ODD += ["{}", "'", "a.b", "__import__('os').system('touch harmed')", "../../etc/passwd", "--config"]


@FUZZ
@given(
    st.sampled_from(NAMES), st.sampled_from(ODD) | st.text(max_size=8) | st.floats().map(str) | st.integers().map(str)
)
def test_any_value_of_any_field_is_taken_or_refused_in_a_sentence(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(ROOT)
    errors = io.StringIO()
    arguments = ["main.py", "--config=configs/digits.py", f"--workdir={tmp_path / 'none'}", "--mode=eval"]
    with contextlib.redirect_stderr(errors):
        code = command.main([*arguments, f"--config.{name}={value}"])
    assert code == 2 and errors.getvalue().startswith("error: ") and errors.getvalue().count("\n") == 1
    assert not (ROOT / "harmed").exists() and not (tmp_path / "none").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "split", "loss"]), inner),
    max_leaves=6,
)
LINE = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20) | st.just(DEEP)


@FUZZ
@given(st.lists(LINE, max_size=5), st.integers(0, 3))
def test_metrics_of_any_content_are_records_or_refused_and_can_be_rewound(tmp_path, lines, step):
    run = RunDirectory(tmp_path)
    run.metrics.write_bytes(b"\n".join(lines))
    try:
        records = read_metrics(run.metrics)
    except UserError as error:
        assert "damaged in line" in str(error) and "\n" not in str(error)
        return
    run.rewind(step)
    assert read_metrics(run.metrics) == [record for record in records if record["step"] <= step]


@FUZZ
@given(LINE)
def test_a_config_of_any_content_in_the_folder_is_another_one_or_damaged(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError), contextlib.closing(RunDirectory(tmp_path)) as run:
        run.open_for({"model": {"name": "resnet50"}})
    with contextlib.suppress(UserError):
        RunDirectory(tmp_path).diverged_at()
    assert (tmp_path / "config.json").read_bytes() == content


INDEX = {
    "format": 1,
    "form": {"size": None, "pixels": True},
    "classes": ["a"],
    "mean": [0.5],
    "std": [0.5],
    "splits": {
        name: {"shards": [{"file": "x.npy", "examples": 1, "bytes": 0, "sha256": ""}], "tables": []}
        for name in ("train", "test")
    },
}


def replaced(value, path, by):
    """A JSON value with another one at the end of a path of numbers, each of which picks a member."""
    if not path or not isinstance(value, dict | list) or not value:
        return by
    key = list(value)[path[0] % len(value)] if isinstance(value, dict) else path[0] % len(value)
    changed = value.copy()
    changed[key] = replaced(value[key], path[1:], by)
    return changed


@FUZZ
@given(
    LINE
    | st.builds(replaced, st.just(INDEX), st.lists(st.integers(0, 20), max_size=5), JSON | st.sampled_from(ODD)).map(
        lambda index: json.dumps(index).encode()
    ),
    st.binary(max_size=100)
    | st.just(b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9**99,)}"),
)
def test_packed_data_of_any_content_is_refused_in_a_sentence(tmp_path, index, table):
    (tmp_path / "index.json").write_bytes(index)
    for name in ("x.npy", "train-labels.npy", "test-labels.npy"):
        (tmp_path / name).write_bytes(table)
    with pytest.raises(DataError) as refused:
        dataset = open_dataset("records", str(tmp_path), image_size=32)
        len(dataset.train), dataset.train[0]
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError):
        verify(tmp_path)


@pytest.mark.parametrize("name", [".lock", ".config.json.partial"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_refused_and_nothing_elsewhere_is_touched(tmp_path, name, kind):
    other = tmp_path / "other"
    other.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    os.symlink(other, folder / name) if kind == "link" else os.mkfifo(folder / name)
    with pytest.raises(UserError, match="cannot be written"), contextlib.closing(RunDirectory(folder)) as run:
        run.open_for({"model": {}})
        run.begin({"model": {}})
    assert other.read_text() == "precious"


def test_a_pipe_in_the_place_of_config_or_metrics_does_not_hang(tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="damaged"):
        RunDirectory(tmp_path).check({})
    with pytest.raises(UserError):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("name", ["5", "²", "٣", "5.orbax-checkpoint-tmp-1", "-1", "9" * 200, "x" * 200])
@pytest.mark.parametrize("kind", ["file", "empty folder", "link", "pipe"])
def test_odd_entries_among_the_checkpoints_are_passed_over_or_refused(tmp_path, name, kind):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    entry, other = folder / name, tmp_path / "other"
    other.mkdir()
    (other / "precious").touch()
    make = {"file": entry.touch, "empty folder": entry.mkdir, "link": lambda: entry.symlink_to(other)}
    make.get(kind, lambda: os.mkfifo(entry))()
    try:
        checkpoints = Checkpoints(folder, note=lambda text: None)
    except UserError:
        assert name in ("5", "9" * 200)
    else:
        assert checkpoints.restore({"step": 0}) is None
        checkpoints.close()
    assert (other / "precious").exists()


VALUES = JSON | st.sampled_from(
    [*ODD, 10**30, 1e308, -1, [], {}, [[[]]], "\ud800", "\x1b[2J", "$\\undefined$", "a" * 5000]
)
PRESET = {
    "name": "",
    "network": "cifar_resnet20",
    "overrides": {"num_classes": 2, "stage_sizes": [1, 1], "shortcut": "A"},
    "dataset": "folder",
    "weights": "",
    "classes": ["cat", "dog"],
    "resize": 36,
    "size": 32,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "top1": None,
    "top5": 0.5,
    "source": "",
}


def changed(value):
    """A strategy of JSON values that differ from a sound one in a member or two, of any type."""
    path = st.lists(st.integers(0, 20), min_size=1, max_size=4)
    once = st.builds(replaced, st.just(value), path, VALUES)
    return once | st.builds(replaced, once, path, VALUES)


@FUZZ
@given(changed(PRESET))
def test_a_preset_of_any_types_is_one_that_can_be_used_or_damaged(tmp_path, content):
    (tmp_path / "preset.json").write_text(json.dumps(content))
    try:
        preset = of_weights(tmp_path)
    except UserError as error:
        assert str(error).isprintable()
        return
    assert ResizeCenterCrop(preset.resize, preset.size, preset.interpolation)(noise(9, 9)).shape[2] == 3
    assert create_model(preset.network, **preset.overrides)
    assert np.isfinite([*preset.mean, *preset.std]).all() and min(preset.std) > 0
    assert all(isinstance(label, str) for label in preset.classes)


@pytest.mark.parametrize(
    "content",
    [
        PRESET | {"overrides": {"stage_sizes": [2000, 2000], "stage_widths": [16, 32]}},
        PRESET | {"network": "cifar_resnet99998", "overrides": {}},
        PRESET | {"network": "cifar_resnet" + "9" * 5000},
        PRESET | {"overrides": {"stage_widths": [10**9, 1]}},
        PRESET | {"size": 10**6},
        PRESET | {"more": 1},
        [PRESET],
    ],
)
def test_a_preset_of_a_huge_network_or_image_is_refused_before_it_is_built(tmp_path, content):
    (tmp_path / "preset.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        of_weights(tmp_path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "file", ["preset.json", "config.json", "metrics.jsonl", "summary.json", "sweep.json", "index.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_no_reader_waits_for_a_pipe_or_reads_a_device_or_a_huge_file(tmp_path, file, kind):
    run = {"config.json": CONFIG, "summary.json": {"top1": 0.5}, METRICS: RECORD, "sweep.json": None}
    for name, content in run.items():
        if content is not None and name != file:
            (tmp_path / name).write_text(json.dumps(content) + "\n")
    path = tmp_path / file
    if kind == "sparse":
        with open(path, "wb") as huge:
            huge.truncate(2**42)
    else:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    if file == "index.json":
        with pytest.raises(DataError, match=r"index.json cannot be read"):
            open_dataset("records", str(tmp_path), image_size=32)
    elif file == "preset.json":
        with pytest.raises(DataError, match=r"preset.json is damaged"):
            of_weights(tmp_path)
    else:
        notes = []
        find([tmp_path], notes)
        assert len(notes) == 1 and file in notes[0]


CONFIG = {"model": {"name": "resnet18", "overrides": {}}, "data": {"source": "digits"}, "training": {"seed": 0}}
RECORD = {"step": 1, "epoch": 1.0, "split": "train", "loss": 1.0, "top1": 0.5}
SWEEP = {name: name for name in ("title", "question", "source", "finding", "axis")} | {
    "seeds": [0],
    "variants": [
        {"label": label, "fields": {"model.name": "x"}, "series": "s", "x": 1.0, "published": ""} for label in "ab"
    ],
}


@settings(FUZZ, max_examples=25)
@given(
    changed(
        {"config.json": CONFIG, "summary.json": {"top1": 0.5, "params": 1, "versions": {}}, "metrics.jsonl": RECORD}
    ),
    st.just(SWEEP) | changed(SWEEP),
)
def test_a_report_of_files_of_any_types_is_a_page_or_names_what_it_leaves_out(tmp_path, run, told):
    shutil.rmtree(tmp_path)
    for folder in (tmp_path / "one", tmp_path / "sweep" / "a" / "seed0"):
        folder.mkdir(parents=True)
        for name, content in run.items() if isinstance(run, dict) else ():
            (folder / pathlib.Path(printable(name, 50)).name).write_text(json.dumps(content) + "\n")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(told))
    notes = []
    try:
        parts = page(find([tmp_path], notes), notes)
    except UserError as error:
        assert str(error).isprintable()
        return
    to_html(parts, "title").encode(), to_markdown(parts, "figures").encode()


def test_names_are_shown_as_they_are_in_reports_tables_and_pictures(tmp_path, capsys):
    nasty = "$\\undefined$ \x1b[2J\u202e<script>"
    summary = {"top1": 0.5, "hardware": nasty}
    run = {"config.json": CONFIG | {"data": {"source": nasty}}, "summary.json": summary, METRICS: RECORD}
    (tmp_path / "run").mkdir()
    for name, content in run.items():
        (tmp_path / "run" / name).write_text(json.dumps(content) + "\n")
    assert commands.main(["report", str(tmp_path / "run"), f"--out={tmp_path / 'page.html'}"]) == 0
    for text in ((tmp_path / "page.html").read_text(), (tmp_path / "page.md").read_text()):
        assert r"\x1b[2J\u202e" in text and "\x1b" not in text and "\u202e" not in text and "<script>" not in text
    heat = np.ones((2, 2), np.float32)
    draw_prediction(noise(8, 8), heat, [(nasty, 0.5), ("a" * 5000, 0.5)], tmp_path / "picture.png", nasty)
    draw_curves([RECORD], tmp_path / "curves.png", nasty)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run's folder with the checkpoint of step 5, and the state in it."""
    folder = tmp_path_factory.mktemp("sound")
    state = {"params": {"a": {"kernel": jnp.arange(12.0).reshape(3, 4)}}, "batch_stats": {"b": jnp.ones(4)}}
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        checkpoints.save(5, state, {"top1": 0.5})
    return folder, state


def forged(checkpoint, folder, change):
    """Copy a run and let its metadata claim something else of an array, with checksums that fit."""
    shutil.copytree(checkpoint[0], folder)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/checkpoints/5/default/"}}
    arrays = tensorstore.KvStore.open(store).result()
    metadata = change(json.loads(arrays.read("params.a.kernel/.zarray").result().value))
    arrays.write("params.a.kernel/.zarray", json.dumps(metadata)).result()
    (folder / "checkpoints" / "5" / "SHA256SUMS").unlink()
    write_checksums(folder / "checkpoints" / "5", WRITTEN_LAST)


CLAIMS = {
    "shape": {"shape": [2**40, 4]},
    "shape and chunks": {"shape": [2**20, 2**15], "chunks": [2**20, 2**15]},
    "chunks": {"chunks": [2**40, 4]},
    "no chunks": {"chunks": [0, 4]},
    "negative": {"shape": [-3, 4]},
    "codec": {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
    "level": {"compressor": {"id": "zstd", "level": 10**9}},
    "type": {"dtype": "|V1000000000"},
    "record": {"dtype": [["x", "<f4", [1000000000]]]},
    "filter": {"filters": [{"id": "delta"}]},
    "more": {"other": 1},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_checkpoint_that_claims_absurd_arrays_is_refused_before_they_are_read(checkpoint, tmp_path, claim):
    forged(checkpoint, tmp_path / "run", lambda metadata: metadata | CLAIMS[claim])
    with pytest.raises(CheckpointError, match=r"params.a.kernel are not those|its arrays have [\d,]+ values"):
        read_variables(tmp_path / "run", most=10**6)
    said = []
    with (
        contextlib.closing(Checkpoints(tmp_path / "run" / "checkpoints", read_only=True, note=said.append)) as found,
        pytest.raises(
            CheckpointError, match=r"None of the checkpoints|params/a/kernel is .* there and \(3, 4\) now"
        ) as why,
    ):
        found.restore(checkpoint[1])
    assert "another network" in str(why.value) or "params.a.kernel are not those" in said[0]


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["shape", "chunks", "dtype", "compressor", "filters", "order", "fill_value", "zarr_format"]),
        st.lists(st.integers(), max_size=3)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "level"]), inner),
            max_leaves=4,
        ),
        min_size=1,
    )
)
def test_metadata_of_any_kind_are_those_of_an_array_or_odd(changes):
    sound = {"shape": [3, 4], "chunks": [3, 4], "compressor": {"id": "zstd", "level": 1}, "dtype": "<f4", **SAME}
    assert sound_shape(sound) == (3, 4)
    try:
        shape = sound_shape(sound | changes)
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    assert len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a folder"])
def test_what_is_no_file_in_a_checkpoint_is_damage_and_is_not_waited_for(checkpoint, tmp_path, kind):
    shutil.copytree(checkpoint[0], tmp_path / "run")
    manifest = tmp_path / "run" / "checkpoints" / "5" / "default" / "manifest.ocdbt"
    listing = manifest.parents[1] / "SHA256SUMS"
    kept = [line for line in listing.read_text().splitlines() if not line.endswith("  default/manifest.ocdbt")]
    listing.write_text("".join(f"{line}\n" for line in kept))
    manifest.unlink()
    make = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero")}
    make.get(kind, lambda path: path.symlink_to(tmp_path))(manifest)
    with pytest.raises(CheckpointError, match=r"default/manifest.ocdbt is not a regular file"):
        read_variables(tmp_path / "run")


KINDS = [GOLDEN / "torch_zip.pth", GOLDEN / "torch_legacy.pth"]


@FUZZ
@given(
    st.sampled_from(KINDS), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 8)), max_size=4)
)
def test_a_weights_file_with_bytes_put_in_taken_out_or_replaced_gives_arrays_or_a_sentence(tmp_path, file, edits):
    content = file.read_bytes()
    for place, put, taken in edits:
        at = int(place * len(content))
        content = content[:at] + put + content[at + taken :]
    (tmp_path / "weights.pth").write_bytes(content)
    try:
        assert all(array.size < 10**7 for array in read_arrays(tmp_path / "weights.pth").values())
    except DataError as error:
        assert "\n" not in str(error)


@FUZZ
@given(
    st.sampled_from(["F32", "F64", "U8", "BOOL", "X"]),
    st.lists(st.integers(0, 2**63 - 1), max_size=4),
    st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_a_safetensors_header_that_claims_what_is_not_there_is_refused(tmp_path, kind, shape, offsets, length):
    header = json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()
    claimed = len(header) if length is None else length
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", claimed) + header)
    try:
        assert all(array.size == 0 for array in read_arrays(tmp_path / "w.safetensors").values())
    except DataError as error:
        assert "\n" not in str(error)
