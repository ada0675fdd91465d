import functools
import hashlib
import json
import os
import pathlib
import pickle
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from resnet_jax import __main__ as command
from resnet_jax.data import packing
from resnet_jax.data.decoding import pixels
from resnet_jax.data.packing import UNFINISHED, PackFormat, pack
from resnet_jax.data.sources import Dataset, archives, open_dataset
from resnet_jax.data.transforms import ResizeCenterCrop
from resnet_jax.errors import DataError
from tests import processes
from tests.data.test_archives import tar
from tests.data.test_sources import write_tfds
from tests.pictures import damaged, encode, noise, photo

REPOSITORY = pathlib.Path(__file__).parents[2]


class Given:
    """A split of given files by name; the label of example i is i mod 3."""

    def __init__(self, files):
        self.files = tuple(files.items())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.files[index][1], index % 3

    def name(self, index):
        return self.files[index][0]


def dataset(train, test=None):
    test = test or {"t.jpg": encode(photo(20, 20), "JPEG")}
    return Dataset(Given(train), Given(test), ("a", "b", "c"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@functools.cache
def photos(count=20):
    sides = np.random.default_rng(0).integers(20, 60, (count, 2))
    return {f"c/{i}.JPEG": encode(photo(*sides[i], seed=i), "JPEG") for i in range(count)}


def packed(folder):
    return open_dataset("records", str(folder), image_size=32)


def told(split):
    return [(split.name(i), *split[i]) for i in range(len(split))]


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


FORMS = {"kept": PackFormat(), "resized": PackFormat(24, quality=80), "raw": PackFormat(24, pixels=True)}


@pytest.mark.parametrize("shard_examples", [1, 7, 20, 100])
def test_kept_files_come_back_to_the_byte_with_their_labels_names_and_classes(tmp_path, shard_examples):
    data = dataset(photos())
    pack(data, tmp_path / "out", PackFormat(), shard_examples=shard_examples)
    found = packed(tmp_path / "out")
    assert told(found.train) == told(data.train)
    assert told(found.test) == told(data.test)
    assert (found.classes, found.mean, found.std) == (data.classes, data.mean, data.std)
    assert told(pickle.loads(pickle.dumps(found.train))) == told(data.train)


def test_resized_images_have_the_short_side_asked_for_and_smaller_ones_stay_as_they_are(tmp_path):
    data = dataset(photos())
    pack(data, tmp_path / "out", FORMS["resized"], shard_examples=7)
    for (_, before, label), (_, after, same) in zip(
        told(data.train), told(packed(tmp_path / "out").train), strict=True
    ):
        assert label == same
        old, new = pixels(before), pixels(after)
        if min(old.shape[:2]) <= 24:
            assert after == before
            continue
        height, width = (int(24 * side / min(old.shape[:2])) for side in old.shape[:2])
        assert new.shape == (height, width, 3)
        resized = Image.fromarray(old).resize((width, height), Image.BILINEAR)
        expected = pixels(encode(resized, "JPEG", quality=80, subsampling="4:2:0")).astype(int)
        assert np.abs(new - expected).mean() < 4


def test_raw_pixels_are_those_of_torchvisions_evaluation(tmp_path):
    data = dataset(photos())
    pack(data, tmp_path / "out", FORMS["raw"], shard_examples=7)
    found = packed(tmp_path / "out").train
    for split in (found, pickle.loads(pickle.dumps(found))):
        for (name, before, label), (same_name, after, same) in zip(told(data.train), told(split), strict=True):
            assert (name, label) == (same_name, same)
            np.testing.assert_array_equal(after, ResizeCenterCrop(24, 24)(before))


@pytest.mark.parametrize("form", FORMS)
def test_the_index_counts_what_there_is_and_has_the_checksums_of_the_shards(tmp_path, form):
    index = pack(dataset(photos()), tmp_path / "out", FORMS[form], shard_examples=7)
    assert index == json.loads((tmp_path / "out" / "index.json").read_text())
    shards = index["splits"]["train"]["shards"]
    assert [shard["examples"] for shard in shards] == [7, 7, 6]
    for shard in shards:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_the_same_images_give_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        pack(dataset(photos()), tmp_path / str(workers), FORMS["resized"], shard_examples=3, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("form", FORMS)
def test_what_was_stopped_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch, form):
    data, form = dataset(photos()), FORMS[form]
    pack(data, tmp_path / "whole", form, shard_examples=3)
    done = []

    def stop(*counts):
        done.append(counts)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(data, tmp_path / "out", form, shard_examples=3, progress=stop)
    with pytest.raises(DataError, match=r"not packed, or not to the end"):
        packed(tmp_path / "out")
    (whole, spoiled) = [tmp_path / "out" / f"train-0000{i}.{form.extension}" for i in (0, 1)]
    spoiled.write_bytes(spoiled.read_bytes()[:-1])
    before = whole.stat().st_mtime_ns
    pack(data, tmp_path / "out", form, shard_examples=3, progress=lambda *counts: done.append(counts))
    assert done[4] == (6, 21), "two of three shards are taken over, and the one that was spoiled is not"
    assert whole.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    done.clear()
    pack(data, tmp_path / "out", form, shard_examples=3, progress=lambda *counts: done.append(counts))
    assert not done, "nothing is left to do"


def test_a_killed_command_goes_on_and_leaves_no_process(tmp_path):
    for split in ("train", "val"):
        for number, content in enumerate(photos().values()):
            file = tmp_path / "in" / split / "abc"[number % 3] / f"{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    arguments = ["pack", str(tmp_path / "in"), str(tmp_path / "out"), "--shard-examples", "1"]
    process = processes.start([sys.executable, "-m", "resnet_jax", *arguments, "--workers", "2"])
    processes.wait_until(lambda: len(list((tmp_path / "out").glob("*.array_record"))) >= 2, process)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "index.json").exists(), "it was done before it was killed"
    processes.wait_until(lambda: not any(pathlib.Path(f"/proc/{child}").exists() for child in children))
    assert command.main([*arguments, "--workers", "1"]) == 0
    assert command.main([*arguments[:2], str(tmp_path / "whole"), *arguments[3:], "--workers", "1"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Deadly(Given):
    """A split whose third example kills who reads it."""

    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_an_error_that_says_so(tmp_path):
    data = Dataset(Deadly(photos()), Given(photos(3)), ("a", "b", "c"), (0.5,), (0.5,))
    with pytest.raises(DataError, match="A worker process was killed"):
        pack(data, tmp_path / "out", PackFormat(), shard_examples=1, workers=2)


def test_odd_images_are_kept_and_named_and_broken_ones_left_out_and_named(tmp_path):
    whole = encode(photo(40, 40), "JPEG")
    files = {
        "a.jpg": whole,
        "png.JPEG": encode(photo(8, 9)),
        "png.png": encode(photo(8, 9)),
        "cmyk.jpg": encode(Image.fromarray(photo(8, 9)).convert("CMYK"), "JPEG"),
        "noisy.jpg": whole[:-2] + b"\x00\x00\x00" + whole[-2:],
        "cut.jpg": whole[:500],
        "page.jpg": b"<html>",
        "empty.jpg": b"",
        "b.jpg": whole,
    }
    index = pack(dataset(files), tmp_path / "out", PackFormat())
    train = index["splits"]["train"]
    odd = {report["name"]: report["why"] for report in train["odd"]}
    broken = {report["name"]: report["why"] for report in train["broken"]}
    assert odd.keys() - {"noisy.jpg"} == {"png.JPEG", "cmyk.jpg"}
    assert (odd["png.JPEG"], odd["cmyk.jpg"]) == ("is a PNG file", "is in CMYK")
    assert broken.keys() == {"cut.jpg", "page.jpg", "empty.jpg"}
    found = packed(tmp_path / "out").train
    assert [name for name, _, _ in told(found)] == [name for name in files if name not in broken]
    for name, content, label in told(found):
        assert (content, label) == (files[name], list(files).index(name) % 3)


@pytest.mark.parametrize("form", ["kept", "raw"])
def test_of_a_thousand_damaged_files_each_is_packed_or_named(tmp_path, form):
    files = damaged()
    index = pack(dataset(files), tmp_path / "out", FORMS[form], shard_examples=300)
    split = packed(tmp_path / "out").train
    kept = [split.name(i) for i in range(len(split))]
    broken = [report["name"] for report in index["splits"]["train"]["broken"]]
    assert len(files) == 1000 and sorted(kept + broken) == sorted(files)
    assert len(kept) == index["splits"]["train"]["examples"] > 100 and len(broken) > 400
    for i in range(len(split)):
        pixels(split[i][0])  # what was packed can be read


def test_a_split_of_broken_images_alone_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No image of the train split can be decoded, such as: An example of 1 bytes"):
        pack(dataset({"a": b"x"}), tmp_path / "out", PackFormat())


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_of_broken_images_alone_is_left_out(tmp_path, form):
    files = {"x": b"x", "y": b"y", "a": encode(photo(30, 30), "JPEG")}
    index = pack(dataset(files), tmp_path / "out", FORMS[form], shard_examples=2)
    assert [shard["examples"] for shard in index["splits"]["train"]["shards"]] == [1]
    assert [name for name, _, _ in told(packed(tmp_path / "out").train)] == ["a"]


@pytest.fixture
def out(tmp_path):
    pack(dataset(photos(5)), tmp_path / "out", PackFormat(), shard_examples=2)
    return tmp_path / "out"


def rewritten(out, **values):
    """The index of a packed folder, in which the first shard says something else of itself."""
    index = json.loads((out / "index.json").read_text())
    index["splits"]["train"]["shards"][0] |= values
    return json.dumps(index)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda out: (out / "index.json").unlink(), "is not packed, or not to the end"),
        (lambda out: (out / "index.json").write_text("{"), "index.json cannot be read"),
        (lambda out: (out / "index.json").write_text('{"format": 9}'), "has format 9 and this version reads 1"),
        (
            lambda out: (out / "train-00001.array_record").unlink(),
            "train-00001.array_record is missing and should have",
        ),
        (lambda out: (out / "test-00000.array_record").write_bytes(b"x"), "has 1 bytes and should have"),
        (lambda out: (out / "train-labels.npy").write_bytes(b"x"), "train-labels.npy has 1 bytes and should have"),
        (lambda out: (out / "train-labels.npy").write_bytes(bytes(148)), "train-labels.npy cannot be read"),
        (
            lambda out: np.save(out / "train-labels.npy", np.zeros((1, 5), np.int32)),
            "holds another array than the index",
        ),
        (lambda out: (out / "index.json").write_text(rewritten(out, file="../x")), "index.json is damaged"),
        (lambda out: (out / "index.json").write_text(rewritten(out, examples=-1)), "index.json is damaged"),
    ],
)
def test_a_packed_folder_that_lacks_something_is_refused(out, change, message):
    change(out)
    with pytest.raises(DataError, match=message):
        len(packed(out).train)


def test_an_example_in_a_damaged_place_is_named(out):
    file = out / "train-00000.array_record"
    file.write_bytes(file.read_bytes()[:70] + bytes(300) + file.read_bytes()[370:])
    with pytest.raises(DataError, match=r"damaged where train example 0 is .*: pack it again"):
        packed(out).train[0]


def test_verify_names_each_file_that_is_not_what_was_packed(out, capsys):
    assert command.main(["verify", str(out)]) == 0
    assert f"All 8 files of {out} are what was packed." in capsys.readouterr().out
    flipped = bytearray((out / "train-00001.array_record").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (out / "train-00001.array_record").write_bytes(flipped)
    (out / "test-00000.array_record").unlink()
    np.save(out / "train-labels.npy", np.ones(5, np.int32))
    assert command.main(["verify", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: {out} is damaged in 3 of its 8 files (train-00001.array_record has changed, test-00000.array_record "
        "is missing, train-labels.npy has changed): copy them again, or pack the data again.\n"
    )


def test_a_folder_is_never_packed_over(tmp_path, out):
    with pytest.raises(DataError, match="holds other data, or the same in another form"):
        pack(dataset(photos(5)), out, PackFormat(24), shard_examples=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DataError, match="is not empty and not packed"):
        pack(dataset(photos(5)), tmp_path / "mine", PackFormat())
    packing.begin(tmp_path / "begun", {"format": 1})
    with pytest.raises(DataError, match="was begun with other data or in another form"):
        pack(dataset(photos(5)), tmp_path / "begun", PackFormat())


def test_records_without_a_path_or_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"set data\.path"):
        open_dataset("records", image_size=32)
    with pytest.raises(DataError, match="There is no folder"):
        packed(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--resize", "0"], "--resize is 0 and must be 1 or more"),
        (["--quality", "101"], "--quality is 101 and must be 100 or less"),
        (["--workers", "0"], "--workers is 0"),
        ([], "There is no folder"),
    ],
)
def test_the_command_ends_with_2_and_a_sentence(tmp_path, capsys, arguments, message):
    assert command.main(["pack", str(tmp_path / "in"), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_tells_what_it_packed_and_what_not(tmp_path, capsys):
    for split in ("train", "val"):
        for name, content in {
            "\x1b[2J.jpg": b"x",
            "a.jpg": encode(noise(8, 8), "JPEG"),
            "b.jpg": encode(noise(8, 8)),
        }.items():
            (tmp_path / split / "cat").mkdir(parents=True, exist_ok=True)
            (tmp_path / split / "cat" / name).write_bytes(content)
    assert command.main(["pack", str(tmp_path), str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "train: 2 of 3 images in 1 shards" in said
    assert "1 left out, since they cannot be read" in said and r"train/cat/\x1b[2J.jpg" in said
    assert "\x1b[2J" not in said
    assert "train/cat/b.jpg: is a PNG file" in said
    assert f"Data: train on the 3 images in {tmp_path / 'train'}, evaluate on the 3 images in" in said
    assert said.index("Data: ") < said.index("train: 2 of 3")
    assert f"--config.data.source=records --config.data.path={tmp_path / 'out'}" in said


def archives_of(folder):
    """ImageNet's archives in small, with a file of labels."""
    folder.mkdir()
    inner = {wnid: tar([(f"{wnid}_1.JPEG", encode(photo(9, 9), "JPEG"))]) for wnid in ("n02", "n01")}
    (folder / archives.TRAIN).write_bytes(tar([(f"{wnid}.tar", content) for wnid, content in inner.items()]))
    (folder / archives.VALIDATION).write_bytes(tar([("val_1.JPEG", encode(photo(8, 8), "JPEG"))]))
    (folder / archives.LABELS).write_text("n02\n")


def test_imagenets_archives_are_packed_by_the_command(tmp_path):
    archives_of(tmp_path / "in")
    assert command.main(["pack", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]) == 0
    found = packed(tmp_path / "out")
    assert found.classes == ("n01", "n02")
    assert [name for name, _, _ in told(found.train)] == ["n01/n01_1.JPEG", "n02/n02_1.JPEG"]
    assert [(name, label) for name, _, label in told(found.test)] == [("val_1.JPEG", 1)]


def test_a_tfds_data_set_is_packed_by_the_command(tmp_path):
    write_tfds(tmp_path / "tfds")
    arguments = ["pack", "tfds:tiny", str(tmp_path / "out"), "--data-dir", str(tmp_path / "tfds"), "--workers", "1"]
    assert command.main(arguments) == 0
    given = open_dataset("tfds:tiny", str(tmp_path / "tfds"), image_size=32)
    assert told(packed(tmp_path / "out").train) == told(given.train)
