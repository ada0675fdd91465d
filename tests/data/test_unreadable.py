"""Image files that cannot be read, in training, evaluation and packing: a sentence with the file's name, and 2."""

import errno
import json
import os

import pytest

import main as train_command
from resnet_jax import __main__ as command
from resnet_jax.run.reading import read_file
from tests.pictures import encode, photo

FIELDS = {
    "data.image_size": 16,
    "data.resize": 16,
    "model.dtype": "float32",
    "model.overrides.stage_sizes": (1, 1),
    "model.overrides.stage_widths": (4, 8),
    "model.overrides.stem_width": 8,
    "training.batch_size": 8,
    "training.epochs": 2,
    "evaluation.batch_size": 8,
    "parallel.devices": 1,
}


def dangling(file, monkeypatch):
    file.symlink_to(file.with_name("gone.jpg"))
    return "no such file or directory"


def failing_disk(file, monkeypatch):
    file.symlink_to("/proc/self/mem")  # whose first page cannot be read
    return "input/output error"


def pipe(file, monkeypatch):
    os.mkfifo(file)
    return "it is not a regular file"


def device(file, monkeypatch):
    file.symlink_to("/dev/zero")
    return "it is not a regular file"


def refusing(number):
    def refuse(file, monkeypatch):
        file.write_bytes(b"")
        opened = os.open

        def refusing_open(path, *rest, **named):
            if os.fsdecode(path).endswith(file.name):
                raise OSError(number, os.strerror(number))
            return opened(path, *rest, **named)

        monkeypatch.setattr(os, "open", refusing_open)
        return os.strerror(number).lower()

    return refuse


FAULTS = {"dangling": dangling, "disk": failing_disk, "pipe": pipe, "device": device}
FAULTS |= {"denied": refusing(errno.EACCES), "stale": refusing(errno.ESTALE)}


@pytest.fixture
def images(tmp_path):
    """Two classes of four images in each split."""
    for number in range(16):
        folder = tmp_path / "images" / ("train", "val")[number % 2] / "ab"[number // 8]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(encode(photo(20, 20, seed=number), "JPEG"))
    return tmp_path / "images"


def start(monkeypatch, images, run, workers=0):
    """Train on a folder, and return the exit code."""
    monkeypatch.chdir(os.path.dirname(train_command.__file__))
    fields = FIELDS | {"data.path": images, "data.workers": workers}
    arguments = [f"--config.{field}={value}" for field, value in fields.items()]
    return train_command.main(["main.py", "--config=configs/resnet50.py", f"--workdir={run}", *arguments])


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_cannot_be_read_ends_training_with_its_name(images, tmp_path, monkeypatch, capsys, fault):
    reason = FAULTS[fault](images / "train" / "a" / "d.jpg", monkeypatch)
    assert start(monkeypatch, images, tmp_path / "run") == 2
    [said] = errors(capsys)
    assert said.startswith(f"error: train/a/d.jpg cannot be read: {reason}; restore the file, or remove it")


def test_an_image_that_cannot_be_read_ends_an_evaluation_with_its_name(images, tmp_path, monkeypatch, capsys):
    dangling(images / "val" / "b" / "d.jpg", monkeypatch)
    assert start(monkeypatch, images, tmp_path / "run") == 2
    assert errors(capsys)[0].startswith("error: val/b/d.jpg cannot be read: no such file or directory")


def test_an_image_that_cannot_be_read_by_a_worker_process_is_named_too(images, tmp_path, monkeypatch, capsys):
    failing_disk(images / "train" / "a" / "d.jpg", monkeypatch)
    assert start(monkeypatch, images, tmp_path / "run", workers=1) == 2
    assert errors(capsys)[0].startswith("error: train/a/d.jpg cannot be read: input/output error")


@pytest.mark.parametrize("fault", FAULTS)
def test_packing_counts_an_image_that_cannot_be_read_among_the_broken_ones(images, tmp_path, monkeypatch, fault):
    reason = FAULTS[fault](images / "val" / "a" / "d.jpg", monkeypatch)
    assert command.main(["pack", str(images), str(tmp_path / "out"), "--workers", "1"]) == 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    [broken] = index["splits"]["test"]["broken"]
    assert broken["name"] == "val/a/d.jpg" and broken["why"].startswith(reason)
    assert index["splits"]["train"]["examples"] == index["splits"]["test"]["examples"] == 8


def test_a_validation_split_alone_is_evaluated_and_packed_and_not_trained_on(images, tmp_path, monkeypatch, capsys):
    assert start(monkeypatch, images, tmp_path / "run") == 0
    whole = json.loads((tmp_path / "run" / "summary.json").read_text())
    alone, packed = tmp_path / "alone", tmp_path / "packed"
    alone.mkdir()
    (images / "val").rename(alone / "val")
    assert command.main(["pack", str(alone), str(packed), "--workers", "1"]) == 0
    evaluate = ["main.py", "--config=configs/resnet50.py", "--mode=eval"]
    fields = {"training.init_from": tmp_path / "run", "data.workers": 0} | {
        field: value for field, value in FIELDS.items() if field != "training.epochs"
    }
    for number, data in enumerate(({"data.path": alone}, {"data.path": packed, "data.source": "records"})):
        arguments = [f"--config.{field}={value}" for field, value in (fields | data).items()]
        folder = tmp_path / f"evaluated{number}"
        assert train_command.main([*evaluate, f"--workdir={folder}", *arguments]) == 0
        result = json.loads((folder / "evaluation.json").read_text())
        assert (result["eval_examples"], result["top1"]) == (8, whole["top1"])
    capsys.readouterr()
    assert start(monkeypatch, alone, tmp_path / "refused") == 2
    assert "holds no images to train on: add train/, or evaluate by --mode=eval" in errors(capsys)[0]
    assert not (tmp_path / "refused").exists()


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(tmp_path / "file", 4)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_file(tmp_path / "sparse", 1000)
