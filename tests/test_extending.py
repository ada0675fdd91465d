"""docs/extending.md: each of its files runs as it stands, outside of the repository, and has its effect."""

import json
import pathlib
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event

import main as command
from resnet_jax import __main__ as commands
from resnet_jax import create_model, setup
from resnet_jax.config.files import read_config
from resnet_jax.data.sources import open_dataset
from resnet_jax.lookup import own_modules
from resnet_jax.run.checkpoints import read_variables
from resnet_jax.run.files import read_json
from resnet_jax.run.metrics import read_metrics

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", PAGE, re.DOTALL))
FEW = ("--config.training.steps=4", "--config.training.log_every=1", "--config.training.batch_size=64")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Write a file of the page outside of the repository and start it there; return the run's folder."""
    monkeypatch.chdir(tmp_path)
    modules, path = set(sys.modules), list(sys.path)

    def run(name, *options, text=None, expected=0):
        (tmp_path / f"{name}.py").write_text(FILES[name] if text is None else text)
        arguments = [f"--config={name}.py", f"--workdir={tmp_path / 'run'}", *FEW, *options]
        assert command.main(["main.py", *arguments]) == expected
        return tmp_path / "run"

    yield run
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if name.startswith("my_")]


def records(folder, split):
    return [record for record in read_metrics(folder / "metrics.jsonl") if record["split"] == split]


def test_a_folder_of_a_run_imports_no_code_that_the_command_does_not_name(start, tmp_path, capsys):
    folder = start("my_optimizer")
    for mode in ("train", "eval"):
        assert command.main(["main.py", f"--workdir={folder}", f"--mode={mode}"]) == 2
        assert "names code that is not the project's (my_optimizer:" in capsys.readouterr().err
    again = ["main.py", "--config=my_optimizer.py", f"--workdir={folder}", "--mode=eval"]
    assert command.main(again) == 0
    stranger = json.loads((folder / "config.json").read_text())
    stranger["optimizer"]["name"] = "os:abort"
    (folder / "config.json").write_text(json.dumps(stranger))
    assert command.main(again) == 2
    assert "names code that is not the project's (os:abort)" in capsys.readouterr().err


def test_the_page_has_a_file_for_each_door():
    doors = ("block", "network", "optimizer", "schedule", "loss", "metric", "transforms", "source", "logger")
    assert sorted(FILES) == sorted(f"my_{door}" for door in doors)


def test_a_block_of_a_users_file_is_in_every_stage(start):
    parameters = (start("my_block") / "parameters.txt").read_text()
    assert all(f"stage{stage}_block1/residual_scale" in parameters for stage in (1, 2, 3))


def test_a_network_of_a_users_file_is_trained_and_evaluated_again(start, tmp_path):
    folder = start("my_network")
    params = read_variables(folder)["params"]
    assert {name: array["kernel"].shape for name, array in params.items()} == {"stem": (3, 3, 1, 16), "head": (16, 10)}
    first = read_json(folder / "summary.json")
    start("my_network", "--mode=eval")
    assert read_json(folder / "evaluation.json")["top1"] == first["top1"]


@pytest.mark.parametrize("name", ["my_network", "my_block"])
def test_a_run_starts_from_the_weights_of_a_network_or_block_of_a_users_file(start, tmp_path, name):
    folder = start(name)
    first = read_json(folder / "summary.json")
    frozen = ("--config.optimizer.learning_rate=0.0", f"--config.training.init_from={folder}", "--mode=eval")
    start(name, *frozen, f"--workdir={tmp_path / 'other'}")
    assert read_json(tmp_path / "other" / "evaluation.json")["loss"] == pytest.approx(first["loss"], rel=1e-6)


@pytest.fixture
def digit(tmp_path):
    """The number of an evaluation example of the digits, and its image as a file."""
    data = open_dataset("digits", image_size=8).test
    Image.fromarray(data.images[5, ..., 0]).save(tmp_path / "digit.png")
    return 5, data.images[5:6], "digit.png"


def logits_by_hand(params, images):
    """The logits of the page's network, computed in NumPy."""
    kernel, padded = params["stem"]["kernel"], np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.maximum(0, np.einsum("bijchw,hwco->bijo", windows, kernel) + params["stem"]["bias"])
    return maps.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def test_a_network_of_a_users_file_predicts_is_measured_and_is_converted(start, tmp_path, digit, capsys):
    folder = start("my_network", "--config.training.steps=30")
    preset, params = read_json(folder / "preset.json"), read_variables(folder)["params"]
    capsys.readouterr()
    predict = ["predict", digit[2], "--format=json", "--top=10", "--config=my_network.py"]
    assert commands.main([*predict, f"--weights={folder}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    found = {each["label"]: each["probability"] for each in row["classes"]}
    logits = logits_by_hand(params, (digit[1] / 255 - preset["mean"]) / preset["std"])[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose([found[label] for label in range(10)], expected, rtol=1e-4)

    surface = ["analyze", "surface", str(folder), "--dimensions=1", "--points=3", "--examples=359"]
    assert commands.main([*surface, "--config=my_network.py"]) == 0
    (network,) = read_json(folder / "analysis" / "surface_1d.json")["networks"]
    assert network["whole"]["error"] == pytest.approx(1 - read_json(folder / "summary.json")["top1"], abs=1e-5)

    assert commands.main(["convert", str(folder), "small.safetensors", "--config=my_network.py"]) == 0
    arrays = load_file("small.safetensors")
    np.testing.assert_array_equal(arrays["stem/kernel"], params["stem"]["kernel"].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(arrays["fc.weight"], params["head"]["kernel"].T)
    capsys.readouterr()
    assert commands.main([*predict, "--weights=small.safetensors"]) == 0
    assert json.loads(capsys.readouterr().out) == [row]


def test_a_block_of_a_users_file_predicts_is_measured_and_is_converted(start, tmp_path, digit, capsys):
    folder = start("my_block")
    capsys.readouterr()
    predict = ["predict", digit[2], "--format=json", "--config=my_block.py"]
    assert commands.main([*predict, f"--weights={folder}", "--pictures=seen"]) == 0
    row = capsys.readouterr().out
    assert (tmp_path / "seen" / "digit.png").is_file()
    assert commands.main(["analyze", "gradients", str(folder), "--examples=4", "--config=my_block.py"]) == 0
    (network,) = read_json(folder / "analysis" / "gradients.json")["networks"]
    assert sum("stage" in path for path in network["trained"]["kernels"]) == 8  # 2 in each block, and 2 of shortcuts
    assert commands.main(["convert", str(folder), "mine.safetensors", "--config=my_block.py"]) == 0
    scale = load_file("mine.safetensors")["stage2_block1/residual_scale"]
    assert scale == read_variables(folder)["params"]["stage2_block1"]["residual_scale"] and scale.shape == ()
    capsys.readouterr()
    assert commands.main([*predict, "--weights=mine.safetensors"]) == 0
    assert capsys.readouterr().out == row


FLAT = """\
import flax.linen as nn
from resnet_jax.config import default_config
from resnet_jax.lab.sweep import Variant, sweep
class Flat(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))
def get_config(kind="run"):
    config = default_config()
    if kind == "sweep":
        variants = [Variant(label="flat", fields={"model.name": "mine:Flat"})]
        return sweep(config, variants, title="t", question="q", source="s", finding="f", axis="a")
    config.model.name = "mine:Flat"
    return config
"""


def test_arrays_whose_shapes_depend_on_the_image_are_read_and_a_sweep_names_code(start, tmp_path, digit, capsys):
    folder = start("mine", text=FLAT)
    assert commands.main(["predict", digit[2], f"--weights={folder}", "--config=mine.py:sweep"]) == 0
    assert commands.main(["convert", str(folder), "flat.safetensors", "--config=mine.py"]) == 0
    assert load_file("flat.safetensors")["Dense_0/kernel"].shape == (10, 64)
    start("mine", f"--config.training.init_from={folder}", f"--workdir={tmp_path / 'next'}", text=FLAT)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("deletion", "has nothing to delete"),
        ("reordering", "no two blocks of this network"),
        ("paths", "has no shortcuts"),
        ("correlation", "Flat has no norm_momentum"),
        ("responses", "has no BatchNorm of resnet_jax.models.layers"),
        ("features", "Flat has no features"),
        ("gradcam", "Flat has no features"),
    ],
)
def test_what_cannot_be_measured_on_a_users_network_is_refused_in_a_sentence(start, capsys, what, sentence):
    folder = start("mine", text=FLAT)
    assert commands.main(["analyze", what, str(folder), "--config=mine.py"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_an_optimizer_of_a_users_file_makes_the_steps(start):
    folder = start("my_optimizer", "--config.training.steps=1", "--config.schedule.name=constant")
    bias = read_variables(folder)["params"]["head"]["bias"]
    np.testing.assert_allclose(np.abs(bias), 0.001, rtol=1e-6)  # it starts at 0, and one step is the rate long


def test_a_schedule_of_a_users_file_gives_the_learning_rate(start):
    first = 0.2 * 1438 / 64  # its warm-up in steps
    rates = [record["learning_rate"] for record in records(start("my_schedule", "--config.training.steps=9"), "train")]
    expected = [0.1 * min((step + 1) / first, (first / (step + 1)) ** 0.5) for step in range(9)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_loss_of_a_users_file_is_minimized_and_evaluation_keeps_cross_entropy(start):
    folder = start("my_loss")
    assert all(0 < record["loss"] < 1.5 for record in records(folder, "train"))  # of ten classes at first 0.9
    assert records(folder, "test")[-1]["loss"] > 1.5  # and cross-entropy log(10)


def test_a_metric_of_a_users_file_is_in_every_record_and_in_the_report(start, tmp_path, capsys):
    folder = start("my_metric", "--config.parallel.devices=4")
    shown = capsys.readouterr().out
    dataset = open_dataset("digits", image_size=8)
    model = create_model("cifar_resnet8", num_classes=10)
    images = (dataset.test.images / 255.0 - dataset.mean) / dataset.std
    logits = np.asarray(model.apply(read_variables(folder), jnp.asarray(images, jnp.float32), train=False), np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1).mean()
    record = records(folder, "test")[-1]
    assert record["confidence"] == pytest.approx(expected, rel=1e-5)
    assert read_json(folder / "summary.json")["confidence"] == record["confidence"]
    assert all(0.1 <= record["confidence"] <= 1 for record in records(folder, "train"))
    assert f"confidence {expected:.4f}" in shown
    assert tensorboard(folder)["test/confidence"] == pytest.approx(expected, rel=1e-5)
    assert commands.main(["report", str(folder), f"--out={tmp_path / 'report.html'}"]) in (0, None)
    report = (tmp_path / "report.html").read_text()
    assert "confidence" in report and f"{expected:.4f}" in report


def tensorboard(folder):
    """The last value of each tag, read record by record: length, checksum, event, checksum."""
    values = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        raw = file.read_bytes()
        while raw:
            size = int.from_bytes(raw[:8], "little")
            for value in Event.FromString(raw[12 : 12 + size]).summary.value:
                values[value.tag] = value.simple_value
            raw = raw[16 + size :]
    return values


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_of_a_users_file_are_drawn_by_seed_and_position(start, tmp_path, workers):
    (tmp_path / "my_transforms.py").write_text(FILES["my_transforms"])
    with own_modules():
        config = read_config(str(tmp_path / "my_transforms.py"))
        config.training.batch_size, config.training.seed, config.data.workers = 32, 3, workers
        trainer = setup.build(config)
        dataset = trainer.train_loader.split
        (batch,) = list(trainer.train_loader.batches([(5, 6)]))
        index = trainer.train_loader.order.rows(5)["index"]
        trainer.close()
    inverted = [np.random.Generator(np.random.Philox(key=[3, position])).random() < 0.5 for position in range(160, 192)]
    assert 0 < sum(inverted) < 32
    expected = [255 - dataset.images[i] if turn else dataset.images[i] for i, turn in zip(index, inverted, strict=True)]
    np.testing.assert_array_equal(batch["image"][0], np.stack(expected))


def test_a_transform_on_the_device_changes_the_batch_and_a_run_with_both_trains(start):
    folder = start("my_transforms")
    assert len(records(folder, "train")) == 4
    quiet = FILES["my_transforms"].replace("0.1 * jax.random.normal(key, images.shape)", "0.0")
    assert quiet != FILES["my_transforms"]
    noisy = records(folder, "train")[0]["loss"]
    other = start("my_transforms", f"--workdir={folder.parent / 'quiet'}", text=quiet)
    assert other and records(folder.parent / "quiet", "train")[0]["loss"] != noisy


def test_a_data_source_of_a_users_file_is_trained_on(start):
    folder = start("my_source")
    data = read_json(folder / "data.json")
    assert data["classes"] == ["even", "odd"] and data["train"]["examples"] == 1400
    assert read_json(folder / "summary.json")["eval_examples"] == 397


def test_a_logger_of_a_users_file_gets_every_record(start):
    folder = start("my_logger")
    lines = (folder / "table.txt").read_text().splitlines()
    written = read_metrics(folder / "metrics.jsonl")
    assert lines == [f"{record['step']} {record['split']} {record['loss']:.4f}" for record in written]


MINE = """\
import jax.numpy as jnp, optax, flax.linen as nn, numpy as np
from resnet_jax.config import default_config
def no_return(*arguments): pass
def raises(logits, labels, losses, valid):
    raise ValueError("what a pity")
def scalar(logits, targets):
    return jnp.mean(logits)
def whole(logits, targets):
    return jnp.ones(len(logits), jnp.int32)
def total(logits, labels, losses, valid): return jnp.sum(losses)
def three(logits, labels, losses): return losses
def loss(logits, labels, losses, valid): return losses
def other(rate): return optax.sgd(rate)
def plain(learning_rate): return optax.sgd(learning_rate)
def unmasked(learning_rate, weight_decay): return optax.sgd(learning_rate)
def nothing(learning_rate): return learning_rate
def fails(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda u, s, p: 1 / 0)
def pair(peak): return lambda step: jnp.stack([step, step])
def rate(peak): return peak
def widens(image, rng): return np.zeros((9, 9, 1), np.uint8)
def floats(image, rng): return image / 255
def crashes(image, rng): return image[1000000]
def swaps(images, targets, key): return targets, images
def alone(images, targets, key): return images
def neither(x): return x
def source(path, colour): return 1
def number(path): return 1
class Headless(nn.Module):
    @nn.compact
    def __call__(self, images, train=False): return nn.Dense(3)(images.mean((1, 2)))
class Three(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, images, train=False): return nn.Dense(3)(images.mean((1, 2)))
class Breaks(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, images, train=False): return images @ images.shape
class Mute:
    def start(self, config, workdir): pass
class Odd(Mute):
    def log(self): pass
    def finish(self): pass
def get_config():
    config = default_config()
    config.model.name = "cifar_resnet8"
    return config
"""


def line(text):
    """The number of the line of `MINE` that has this text."""
    return next(number for number, each in enumerate(MINE.splitlines(), start=1) if text in each)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("optimizer.name=adamv", "there is no optimizer 'adamv', did you mean 'adam'"),
        ("optimizer.name=optax.adamv", "has no optimizer 'optax.adamv', did you mean 'optax.adam"),
        ("optimizer.name=mine:lin", "mine has no 'lin'"),
        ("optimizer.name=theirs:lion", "names a module that cannot be found: put theirs.py beside the config file"),
        ("optimizer.name=mine:other optimizer.weight_decay=0", "has a parameter 'rate'"),
        ("optimizer.name=mine:plain", "has no weight decay: set optimizer.weight_decay=0"),
        ("optimizer.name=adam", "has no weight decay: set optimizer.weight_decay=0"),
        (
            "optimizer.name=mine:unmasked optimizer.weight_decay_mask=kernels",
            "decays all parameters: set optimizer.weight_decay_mask=all",
        ),
        ("optimizer.name=mine:nothing optimizer.weight_decay=0", "return an optax.GradientTransformation"),
        (
            "optimizer.name=mine:fails optimizer.weight_decay=0",
            rf"ZeroDivisionError: .*mine\.py, line {line('1 / 0')}\)",
        ),
        ("optimizer.name=adamw optimizer.arguments.rho=0.1", "has no argument 'rho'"),
        ("optimizer.arguments.momentum=0.5", "optimizer.momentum sets the momentum of 'sgd'"),
        (
            "optimizer.name=schedule_free optimizer.backbone_lr_multiplier=0.5",
            "leave optimizer.backbone_lr_multiplier at 1",
        ),
        ("schedule.name=mine:pair", r"'mine:pair' gives shape \(2,\) and int32: give one number"),
        ("schedule.name=mine:rate", "returns float: return a function of the step"),
        ("schedule.name=mine:other", "the schedule 'mine:other' has a parameter 'rate'"),
        ("training.loss=hinge", "there is no loss 'hinge'"),
        ("training.loss=mine:scalar", r"the loss 'mine:scalar' returns shape \(\) and must return one value for each"),
        ("training.loss=mine:whole", "'mine:whole' returns int32 and must return floats"),
        ("training.loss=mine:raises", "cannot be called with"),
        (
            "evaluation.metrics=('mine:raises',)",
            rf"'mine:raises' raises ValueError: what a pity \(.*mine\.py, line {line('a pity')}\)",
        ),
        ("evaluation.metrics=('mine:total',)", r"'mine:total' returns shape \(\) and must return one value"),
        ("evaluation.metrics=('mine:three',)", "'mine:three' cannot be called with"),
        ("evaluation.metrics=('mine:loss',)", "the key 'loss' of the metric 'mine:loss' is taken"),
        ("evaluation.metrics=(1,)", "must be of type tuple of str"),
        ("augment.transforms=('mine:widens',)", r"returns uint8 \(9, 9, 1\) and must return uint8 \(8, 8, 1\)"),
        ("augment.transforms=('mine:floats',)", "returns float64 .* and must return uint8"),
        ("augment.transforms=('mine:crashes',)", rf"IndexError: .*mine\.py, line {line('image[1000000]')}\)"),
        ("augment.transforms=('mine:swaps',)", "returns images of float32 .* and must return float32"),
        ("augment.transforms=('mine:alone',)", "return images and targets"),
        ("augment.transforms=('mine:neither',)", r"has the parameters \(x\): name them \(image, rng\)"),
        ("data.source=mine:source", "the data source 'mine:source' has a parameter 'colour'"),
        ("data.source=mine:number", "returns int: return a resnet_jax.data.sources.Dataset"),
        ("model.name=mine:Headless", "has no field num_classes"),
        ("model.name=mine:Three", r"returns float32 \(2, 3\) for two images: return float32 logits \(2, 10\)"),
        ("model.name=mine:Breaks", rf"mine:Breaks cannot be trained: TypeError: .*mine\.py, line {line('@ images')}\)"),
        ("model.name=mine:Three model.dtype=bfloat16", "has no field dtype: add it, or reset model.dtype"),
        ("model.name=mine:Three parallel.norm_scope=global", "has no field norm_axis: add it, or reset parallel.norm_"),
        ("model.name=mine:plain", "must be a class of flax.linen.Module"),
        (
            "logging.loggers=('mine:Mute',)",
            r"must have the methods start\(config, workdir\), log\(record\), finish\(\)",
        ),
        ("logging.loggers=('mine:Odd',)", "cannot be called with"),
        ("logging.loggers=('wandv',)", "there is no logger 'wandv', did you mean 'wandb'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(start, capsys, options, sentence):
    folder = start("mine", *(f"--config.{option}" for option in options.split(" ")), text=MINE, expected=2)
    error = capsys.readouterr().err
    assert re.search(sentence, error) and error.count("\n") == 1 and "Traceback" not in error
    assert not folder.exists()


def test_a_strangers_preset_gets_no_code_imported(start, tmp_path, monkeypatch, capsys):
    folder = start("my_logger")
    (tmp_path / "my_trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    preset = read_json(folder / "preset.json")
    for change in ({"network": "my_trap:Net"}, {"overrides": {**preset["overrides"], "block": "my_trap:Block"}}):
        (folder / "preset.json").write_text(json.dumps(preset | change))
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            for verb in (
                ["predict", "none.png", f"--weights={folder}"],
                ["analyze", "surface", str(folder)],
                ["convert", str(folder), str(tmp_path / "out.safetensors")],
            ):
                for named in ([], ["--config=my_logger.py"]):  # which names other code
                    assert commands.main([*verb, *named]) == 2
                    error = capsys.readouterr().err
                    assert "names code that is not the project's (my_trap:" in error and error.count("\n") == 1
                    assert "name the config file with that code by --config" in error
    assert not (tmp_path / "sprung").exists()
