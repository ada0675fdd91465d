import json
import os
import resource
import struct
import subprocess
import sys
from contextlib import closing, contextmanager

import numpy as np
import pytest

from resnet_jax.errors import ConfigError, UserError
from resnet_jax.run.files import disk_errors, write_atomically
from resnet_jax.run.metrics import read_metrics
from resnet_jax.run.workdir import RunDirectory, versions

CONFIG = {
    "model": {"name": "resnet50", "overrides": {}},
    "optimizer": {"learning_rate": 0.1, "betas": [0.9, 0.99]},
    "training": {"log_every": 10, "epochs": 90},
    "data": {"path": "/data"},
}


def changed(**fields):
    config = json.loads(json.dumps(CONFIG))
    for dotted, value in fields.items():
        group, field = dotted.split("__")
        config[group][field] = value
    return config


def train_record(step):
    return {"step": step, "epoch": step / 100, "split": "train", "loss": 1 / step, "top1": 0.5}


def open_for(path, *arguments):
    """Opened for a run that has ended."""
    with closing(RunDirectory(path)) as run:
        run.open_for(*arguments)
        run.begin(arguments[0])
    return run


@contextmanager
def files_no_larger_than(size):
    """The system refuses to write beyond `size` with EFBIG, as a full disk refuses with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def event_payloads(folder):
    """The protocol buffers in TFRecord files: length (8 bytes), its checksum (4), data, its checksum (4)."""
    for file in sorted(folder.iterdir()):
        data, start = file.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            yield data[start + 12 : start + 12 + length]
            start += 16 + length


def test_the_config_is_written_sorted_and_a_start_with_the_same_one_leaves_it(tmp_path):
    run = open_for(tmp_path / "runs" / "first", CONFIG)
    written = run.config.read_text()
    assert json.loads(written) == CONFIG
    assert list(json.loads(written)) == sorted(CONFIG)
    open_for(run.path, CONFIG | {"optimizer": {"learning_rate": 0.1, "betas": (0.9, 0.99)}})
    assert run.config.read_text() == written
    assert {file.name for file in run.path.iterdir()} == {"config.json", ".lock"}


def test_another_config_is_refused_with_both_values_of_each_field(tmp_path):
    open_for(tmp_path, CONFIG)
    other = changed(optimizer__learning_rate=0.2, model__overrides={"cardinality": 32})
    with pytest.raises(ConfigError) as error:
        open_for(tmp_path, other)
    assert "optimizer.learning_rate is 0.1 there and 0.2 now" in str(error.value)
    assert "model.overrides.cardinality is absent there and 32 now" in str(error.value)
    assert "another --workdir" in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG


def test_of_many_differences_five_are_named_and_the_rest_counted(tmp_path):
    open_for(tmp_path, {f"field{index}": 0 for index in range(8)})
    with pytest.raises(ConfigError, match="field4 is 0 there and 1 now; and 3 more"):
        open_for(tmp_path, {f"field{index}": 1 for index in range(8)})


def test_fields_that_may_change_are_taken_over_and_no_others(tmp_path):
    may_change = ("training.log_every", "data")
    open_for(tmp_path, CONFIG)
    moved = changed(training__log_every=50, data__path="/elsewhere")
    open_for(tmp_path, moved, may_change)
    assert json.loads((tmp_path / "config.json").read_text()) == moved
    with pytest.raises(ConfigError) as error:
        open_for(tmp_path, changed(training__log_every=1, training__epochs=100), may_change)
    assert "training.epochs is 90 there and 100 now" in str(error.value)
    assert "log_every" not in str(error.value)


def test_a_prefix_covers_whole_names_only(tmp_path):
    open_for(tmp_path, {"data": {"path_suffix": "a"}})
    with pytest.raises(ConfigError):
        open_for(tmp_path, {"data": {"path_suffix": "b"}}, ("data.path",))


@pytest.mark.parametrize("content", [b'{"model": ', b"", b"[]", b"\xff\x00"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        open_for(tmp_path, CONFIG)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(UserError, match="choose another folder"):
            open_for(path, CONFIG)


def test_a_folder_that_may_not_be_written_is_refused_even_if_nothing_has_to_be_written(tmp_path, monkeypatch):
    open_for(tmp_path, CONFIG)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # The administrator may write whatever chmod says.
    with pytest.raises(UserError, match="choose another folder"):
        open_for(tmp_path, CONFIG)


def test_a_folder_in_which_another_process_trains_is_refused_and_named_until_that_one_is_killed(tmp_path):
    code = f"""if True:
        from resnet_jax.run.workdir import RunDirectory
        run = RunDirectory({str(tmp_path)!r})
        run.open_for({CONFIG!r})
        run.begin({CONFIG!r})
        print("open", flush=True)
        input()"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ConfigError, match=f"in use by process {other.pid} on .*another --workdir"):
            open_for(tmp_path, changed(training__log_every=1), ("training",))
        assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
        other.kill()
    open_for(tmp_path, CONFIG)


def test_the_address_of_a_bucket_is_refused_and_not_taken_for_a_local_folder():
    with pytest.raises(ConfigError, match="mount"):
        RunDirectory("gs://bucket/run")


def test_records_come_back_as_they_were_logged(tmp_path):
    run = RunDirectory(tmp_path)
    run.log({"step": np.int32(3), "epoch": 0.5, "split": "train", "loss": np.float32(0.25), "top1": float("nan")})
    assert read_metrics(run.metrics) == [{"step": 3, "epoch": 0.5, "split": "train", "loss": 0.25, "top1": None}]
    run.log({"step": 4, "split": "test", "loss": float("inf")})
    assert run.metrics.read_text().splitlines()[1] == '{"step": 4, "split": "test", "loss": null}'
    run.close()


def test_tensorboard_gets_the_finite_numbers_under_split_and_name(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    run = RunDirectory(tmp_path)
    run.log({"step": 7, "epoch": 1.0, "split": "train", "loss": 0.5, "top1": float("nan"), "images_per_second": 100})
    run.close()
    events = [Event.FromString(payload) for payload in event_payloads(run.tensorboard)]
    scalars = {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}
    assert scalars == {("train/loss", 7): 0.5, ("train/images_per_second", 7): 100}


def test_a_start_after_another_keeps_its_events_and_hides_what_is_measured_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for resumed_from in (0, 2):
        run = RunDirectory(tmp_path)
        run.rewind(resumed_from)
        for step in range(resumed_from + 1, 4):
            run.log(train_record(step))
        run.close()
    events = [Event.FromString(payload) for payload in event_payloads(run.tensorboard)]
    assert len(list(run.tensorboard.iterdir())) == 2
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [1, 3]
    assert [event.step for event in events for value in event.summary.value if value.tag == "train/loss"] == [
        1,
        2,
        3,
        3,
    ]


def test_a_resumed_run_leaves_the_metrics_of_one_that_was_never_stopped(tmp_path):
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    for run, steps in ((whole, 20), (killed, 17)):
        run.open_for(CONFIG)
        for step in range(1, steps + 1):
            run.log(train_record(step))
        run.close()
    with killed.metrics.open("a") as file:
        file.write('{"step": 18, "epo')
    resumed = RunDirectory(killed.path)
    resumed.rewind(10)
    for step in range(11, 21):
        resumed.log(train_record(step))
    resumed.close()
    assert resumed.metrics.read_bytes() == whole.metrics.read_bytes()


def test_rewinding_a_run_that_has_measured_nothing_does_nothing(tmp_path):
    RunDirectory(tmp_path).rewind(0)
    assert not list(tmp_path.iterdir())


def test_a_cut_last_line_is_not_read_but_a_damaged_line_before_it_is_an_error(tmp_path):
    file = tmp_path / "metrics.jsonl"
    one = '{"step": 1, "split": "test"}\n'
    file.write_text(one + '{"step": 2, "lo')
    assert read_metrics(file) == [{"step": 1, "split": "test"}]
    file.write_text(one + '{"st\n' + one)
    with pytest.raises(UserError, match="line 2"):
        read_metrics(file)


def test_metrics_that_are_missing_are_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl does not exist"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_the_summary_carries_the_versions(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_summary({"top1": np.float32(0.5), "loss": float("nan"), "steps": 10})
    summary = json.loads(run.summary.read_text())
    assert summary == {"top1": 0.5, "loss": None, "steps": 10, "versions": versions()}
    assert summary["versions"]["numpy"] == np.__version__
    assert {"python", "platform", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "resnet_jax"} < set(versions())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_while_logging_is_one_sentence_that_says_what_to_do(tmp_path):
    run = RunDirectory(tmp_path)
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        run.log(train_record(1))
    assert str(run.metrics) in str(error.value)
    assert "disk is full" in str(error.value)
    assert "same command" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_old_summary_whole_and_nothing_else(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_summary({"steps": 1})
    before = run.summary.read_text()
    with files_no_larger_than(20), pytest.raises(UserError, match="disk is full"):
        run.write_summary({"steps": 2})
    assert run.summary.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_killed_write_does_not_touch_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_errors_that_are_not_the_users_to_mend_pass():
    with pytest.raises(InterruptedError), disk_errors("file"):
        raise InterruptedError(4, "interrupted")


def test_each_part_has_its_place(tmp_path):
    run = RunDirectory(tmp_path)
    parts = [run.config, run.metrics, run.summary, run.checkpoints, run.tensorboard, run.curves]
    names = ["config.json", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard", "curves.png"]
    assert parts == [tmp_path / name for name in names]
