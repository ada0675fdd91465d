"""A refused start leaves the folder as it was, and the mended command runs in it; a run is bound to its data."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import safetensors
from PIL import Image

import main as command
from resnet_jax import __main__ as commands
from resnet_jax import create_model, load_weights, save_weights, setup
from resnet_jax.config import to_dict
from resnet_jax.data.identity import fingerprint, identity
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import ConfigError
from resnet_jax.run import distributed, workers
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.metrics import read_metrics
from resnet_jax.setup import build
from resnet_jax.weights.presets import of_weights
from tests import processes

ROOT = pathlib.Path(__file__).parents[1]
SMALL = [
    "--config=configs/digits.py",
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(8,16)",
    "--config.model.overrides.stem_width=8",
    "--config.training.batch_size=6",
    "--config.training.steps=2",
    "--config.evaluation.batch_size=64",
    "--config.parallel.devices=1",
]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def start(workdir, *arguments):
    return command.main(["main.py", *SMALL, f"--workdir={workdir}", *arguments])


def contents(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }  # the lock names the process


def test_a_refused_start_leaves_no_folder_and_the_mended_command_runs_in_it(tmp_path, capsys):
    workdir = tmp_path / "run"
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no weights")
    for wrong, said in {
        "--config.training.init_from=nowhere.pth": "nowhere.pth",
        f"--config.training.init_from={other}": "other.safetensors",
        "--config.model.overrides.stem_width=32": "shortcut",
        "--config.model.name=resnet19": "resnet19",
        "--config.optimizer.name=sdg": "sgd",
        "--config.optimizer.weight_decay_mask=everything": "everything",
        "--config.schedule.name=cosin": "cosine",
        "--config.augment.policy=rand_augment": "augment.policy",
        "--config.training.batch_size=0": "batch_size",
        "--config.training.microbatches=4": "microbatches",
        "--config.data.source=folder": "data.path",
        "--config.optimizer.learning_rate=-1.0": "learning_rate",
        "--config.parallel.devices=9": "parallel.devices",
    }.items():
        assert start(workdir, wrong) == 2, wrong
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert not workdir.exists(), wrong
    assert start(workdir) == 0
    assert json.loads((workdir / "summary.json").read_text())["steps"] == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two steps on a folder of pictures, and that folder."""
    home = tmp_path_factory.mktemp("bound")
    make_pictures(home / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert start(home / "run", *on(home / "pictures")) == 0
    return home


@pytest.fixture
def home(trained, tmp_path):
    """A copy of both, which a test may spoil."""
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


def make_pictures(folder, classes="abc"):
    draw = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def on(folder):
    return ("--config.data.source=folder", f"--config.data.path={folder}", "--config.data.image_size=8")


def add_class(folder):
    for split in ("train", "val"):
        shutil.copytree(folder / split / "a", folder / split / "d")


def rename_class(folder):
    for split in ("train", "val"):
        (folder / split / "b").rename(folder / split / "z")


def replace_class(folder):
    for number in range(4):
        Image.new("RGB", (12, 12)).save(folder / "train" / "b" / f"{number}.png")


def add_image(folder):
    shutil.copy(folder / "train" / "a" / "0.png", folder / "train" / "a" / "new.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_class, 'new classes: "d"'),
        (rename_class, 'missing classes: "b"; new classes: "z"'),
        (replace_class, "train has other examples"),
        (add_image, "train had 12 examples and has 13"),
    ],
)
def test_a_run_refuses_other_data_and_keeps_all_its_files(home, change, said, capsys):
    change(home / "pictures")
    before = contents(home / "run")
    assert start(home / "run", *on(home / "pictures")) == 2
    error = capsys.readouterr().err
    assert said in error and f"--config.training.init_from={home / 'run'}" in error and error.count("\n") == 1
    assert contents(home / "run") == before


def test_data_that_were_moved_are_the_same_data(home, capsys):
    (home / "pictures").rename(home / "elsewhere, with a longer name")
    assert start(home / "run", *on(home / "elsewhere, with a longer name")) == 0


def test_a_run_of_before_data_were_recorded_goes_on_and_is_bound_by_its_class_names(home, capsys):
    (home / "run" / "data.json").unlink()
    assert start(home / "run", *on(home / "pictures")) == 0
    recorded = json.loads((home / "run" / "data.json").read_text())
    assert recorded["classes"] == ["a", "b", "c"] and recorded["train"]["examples"] == 12
    (home / "run" / "data.json").unlink()
    rename_class(home / "pictures")
    assert start(home / "run", *on(home / "pictures")) == 2
    assert 'new classes: "z"' in capsys.readouterr().err


def test_a_fingerprint_is_of_names_labels_and_sizes_and_not_of_the_place(tmp_path):
    def of(place):
        return fingerprint(open_dataset("folder", str(tmp_path / place), image_size=8).train)

    make_pictures(tmp_path / "one")
    first, *others = sorted(path for path in (tmp_path / "one" / "train").rglob("*") if path.is_file())
    neighbour = next(path for path in others if path.parent != first.parent)
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "deeper")
    whole = of("one")
    assert of("two/deeper") == whole

    renamed = first.rename(first.with_stem("00"))
    assert of("one") != whole
    renamed.rename(first)
    assert of("one") == whole
    first.write_bytes(first.read_bytes() + b"\0")  # which no decoder minds
    assert of("one") != whole
    first.write_bytes(first.read_bytes()[:-1])
    moved = first.rename(neighbour.parent / f"moved{first.suffix}")  # the class is part of a name, and so is the label
    assert of("one") != whole
    moved.rename(first)
    assert of("one") == whole


def test_the_identity_of_digits_counts_what_scikit_learn_has():
    found = identity(open_dataset("digits", image_size=8))
    assert found["classes"] == list("0123456789")
    assert found["train"]["examples"] + found["test"]["examples"] == 1797


@pytest.mark.parametrize("wrong", ["--config.training.epochs=7.0", "--config.training.batch_size=12"])
def test_where_a_finished_run_cannot_be_continued_the_way_is_named(home, wrong, capsys):
    before = contents(home / "run")
    assert start(home / "run", *on(home / "pictures"), wrong) == 2
    assert f"another --workdir, there with --config.training.init_from={home / 'run'}" in capsys.readouterr().err
    assert contents(home / "run") == before


def test_a_checkpoint_of_another_network_is_answered_in_one_sentence_and_stays(home, tmp_path, capsys):
    shutil.rmtree(home / "run" / "checkpoints")
    assert start(tmp_path / "wide", *on(home / "pictures"), "--config.model.overrides.stem_width=4") == 0
    shutil.copytree(tmp_path / "wide" / "checkpoints", home / "run" / "checkpoints")
    capsys.readouterr()
    before = contents(home / "run")
    for mode in ("train", "eval"):
        assert start(home / "run", *on(home / "pictures"), f"--mode={mode}") == 2
        error = capsys.readouterr().err
        assert "belongs to another network or other data (params/stage1_block1/" in error
        assert "(3, 3, 4, 8) there and (3, 3, 8, 8) now" in error
        assert error.count("\n") == 1 and "ArrayRestoreArgs" not in error and "delete" not in error
    assert contents(home / "run") == before


def test_checkpoints_of_another_shape_are_refused_by_whoever_restores_them(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, {"params": {"w": np.zeros((3, 4))}, "step": np.zeros(())})
        checkpoints.wait()
        with pytest.raises(Exception, match=r"params/w is \(3, 4\) there and \(3, 5\) now"):
            checkpoints.restore({"params": {"w": np.zeros((3, 5))}, "step": np.zeros(())})
        assert checkpoints.steps == [1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run on the digits."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert start(folder) == 0
    return folder


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_run_that_was_begun_needs_no_flag_but_its_folder(finished, mode, capsys):
    before = json.loads((finished / "config.json").read_text())
    assert command.main(["main.py", f"--workdir={finished}", f"--mode={mode}"]) == 0
    assert "on 359 examples after 2 steps" in capsys.readouterr().out
    assert json.loads((finished / "config.json").read_text()) == before


def test_an_evaluation_takes_the_runs_own_fields_for_those_that_were_forgotten(finished, capsys):
    arguments = ["main.py", "--config=configs/digits.py", f"--workdir={finished}", "--mode=eval"]
    assert command.main(arguments) == 0
    assert "on 359 examples after 2 steps" in capsys.readouterr().out
    assert command.main([*arguments, "--config.model.overrides.stem_width=4"]) == 2
    assert "model.overrides.stem_width is 8 there and 4 now" in capsys.readouterr().err


def test_the_config_of_a_run_is_read_back_as_it_was(finished):
    values = command.parse(["main.py", f"--workdir={finished}", "--config.evaluation.batch_size=7"])
    config = to_dict(values.config)
    written = json.loads((finished / "config.json").read_text())
    written["evaluation"]["batch_size"] = 7
    assert json.loads(json.dumps(config)) == written
    assert values.config.model.overrides.stage_sizes == (1, 1)


def test_without_a_config_or_a_run_the_sentence_names_both(tmp_path, capsys):
    assert command.main(["main.py", f"--workdir={tmp_path}"]) == 2
    assert "--config=FILE" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[1")
    assert command.main(["main.py", f"--workdir={tmp_path}"]) == 2
    assert "is damaged" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model": {"of_the_future": 3}}')
    assert command.main(["main.py", f"--workdir={tmp_path}"]) == 2
    assert "sets model.of_the_future to 3, which this version does not have" in capsys.readouterr().err


def test_a_packed_folder_is_read_where_the_config_says_folder(trained, tmp_path, capsys):
    packed = tmp_path / "packed"
    assert commands.main(["pack", str(trained / "pictures"), str(packed), "--workers=1"]) == 0
    assert start(tmp_path / "run", *on(packed)) == 0
    assert "on 6 examples after 2 steps" in capsys.readouterr().out


def test_a_sweep_in_the_folder_of_another_is_refused_and_keeps_it(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text('{"title": "Another"}')
    assert command.main(["main.py", "--config=configs/sweeps/shortcuts.py", f"--workdir={tmp_path}"]) == 2
    assert "holds another sweep ('Another')" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_coordinator_whose_name_is_not_known_is_said_at_once(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "START_SECONDS", 0)
    with pytest.raises(ConfigError, match=r"check the spelling of 'nowhere\.invalid'"):
        distributed.start("nowhere.invalid:1234", 2, 0, 20)
    assert not capsys.readouterr().out


@pytest.fixture
def converted(trained, tmp_path):
    """The run's weights as a file, and the file's preset in another setting."""
    target = tmp_path / "weights.safetensors"
    assert commands.main(["convert", str(trained / "run"), str(target)]) == 0
    return target


def test_convert_keeps_the_names_of_the_classes(converted, trained, tmp_path, capsys):
    with safetensors.safe_open(converted, "numpy") as file:
        assert json.loads(file.metadata()["preset"])["classes"] == ["a", "b", "c"]
    pictures = [str(path) for path in sorted((trained / "pictures" / "val" / "b").iterdir())]
    tables = []
    for weights in (converted, trained / "run"):
        capsys.readouterr()
        assert commands.main(["predict", *pictures, f"--weights={weights}", "--format=json"]) == 0
        tables.append(json.loads(capsys.readouterr().out))
    assert tables[0] == tables[1]
    assert {found["class"] for found in tables[0][0]["classes"]} == {"a", "b", "c"}
    again = tmp_path / "again.safetensors"
    assert commands.main(["convert", str(converted), str(again)]) == 0
    assert of_weights(again) == of_weights(converted)


def test_weights_give_the_setting_they_expect_where_the_config_has_none(converted, trained, tmp_path, capsys):
    preset = dataclasses.replace(
        of_weights(converted),
        overrides=of_weights(converted).overrides | {"shortcut": "A_both"},
        mean=(0.1, 0.2, 0.3),
        interpolation="bicubic",
    )
    model = create_model(preset.network, **preset.overrides)
    save_weights(model, load_weights(model, converted), converted, preset)
    network = [argument for argument in SMALL if "overrides" not in argument]
    arguments = ["main.py", *network, *on(trained / "pictures"), f"--config.training.init_from={converted}"]
    capsys.readouterr()
    assert command.main([*arguments, f"--workdir={tmp_path / 'one'}"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "model.overrides.shortcut=A_both is taken",
        "model.overrides.stem_width=8 is taken",
        "data.mean=(0.1, 0.2, 0.3) is taken",
        "data.interpolation is bilinear here and bicubic there",
    ):
        assert said in printed
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["model"]["overrides"]["shortcut"] == "A_both" and config["data"]["mean"] == [0.1, 0.2, 0.3]
    changed = dataclasses.replace(preset, mean=(0.9, 0.9, 0.9))
    save_weights(model, load_weights(model, converted), converted, changed)
    assert command.main([*arguments, f"--workdir={tmp_path / 'one'}"]) == 0  # it keeps what it was begun with
    assert json.loads((tmp_path / "one" / "config.json").read_text()) == config


def test_what_is_set_and_differs_from_the_weights_is_said_and_kept(converted, trained, tmp_path, capsys):
    arguments = [*on(trained / "pictures"), f"--config.training.init_from={converted}"]
    assert start(tmp_path / "run", *arguments, "--config.data.mean=(0.5,0.5,0.5)") == 0
    assert "data.mean is (0.5, 0.5, 0.5) here and (0.485, 0.456, 0.406) there" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate is -1.0 and must be 0 or more"),
        ("schedule.warmup_epochs", -1.0, "schedule.warmup_epochs is -1.0 and must be 0 or more"),
        ("augment.solarize", 0.5, "a field augment.solarize, which nothing reads"),
        ("training.dropout_rate", 0.5, "a field training.dropout_rate, which nothing reads"),
    ],
)
def test_a_field_that_would_be_ignored_or_harmful_is_refused(field, value, said):
    config = command.parse(["main.py", *SMALL]).config
    with config.unlocked():
        group, name = field.split(".")
        config[group][name] = value
    with pytest.raises(ConfigError, match=re.escape(said)):
        build(config)


@pytest.mark.parametrize(("examples", "devices", "expected"), [(6, 1, 6), (6, 4, 8)])
def test_an_evaluation_computes_no_more_images_than_the_devices_need(trained, examples, devices, expected):
    arguments = [*SMALL, *on(trained / "pictures"), f"--config.parallel.devices={devices}"]
    trainer = build(command.parse(["main.py", *arguments, "--config.training.batch_size=8"]).config)
    assert trainer.eval_loader.order.examples == examples
    (rows,) = [each["index"] for each in [trainer.eval_loader.order.rows(0)]]
    assert len(rows) == expected and trainer.eval_loader.order.steps == 1


@pytest.mark.parametrize(
    ("backend", "cores", "devices", "expected"),
    [("cpu", 64, 1, 0), ("gpu", 2, 1, 0), ("gpu", 8, 1, 7), ("gpu", 96, 1, 16), ("gpu", 96, 8, 95), ("tpu", 16, 4, 15)],
)
def test_workers_are_as_many_as_the_cores_and_the_accelerators_need(
    trained, monkeypatch, backend, cores, devices, expected
):
    data = open_dataset("folder", str(trained / "pictures"), image_size=8)
    monkeypatch.setattr(setup.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(setup.jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(setup, "usable_cores", lambda: cores)
    assert setup.default_workers(data) == expected


def test_workers_are_kept_between_evaluations_and_gone_after_the_run(trained, tmp_path, monkeypatch):
    started = []
    real = workers.Workers._start
    monkeypatch.setattr(workers.Workers, "_start", lambda self: (started.append(self.count), real(self))[1])
    arguments = [*on(trained / "pictures"), "--config.data.workers=1", "--config.training.steps=8"]
    with processes.no_more_children():
        assert start(tmp_path / "run", *arguments, "--config.training.ema_decay=0.9") == 0
    evaluations = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if record["split"] == "test"]
    assert len(evaluations) == 4 and started == [1]
