import dataclasses
import json
import pathlib

import pytest

import main as command
from resnet_jax.config import (
    ARGUMENTS,
    FIELDS,
    MAY_CHANGE,
    OVERRIDES,
    check_config,
    default_config,
    flat,
    network_fields,
    to_dict,
    typed_config,
    upgraded,
)
from resnet_jax.config.files import run_config
from resnet_jax.errors import ConfigError
from resnet_jax.lab.sweep import Variant, sweep, trials
from resnet_jax.run.files import read_json
from resnet_jax.run.identity import flattened

ROOT = pathlib.Path(__file__).parents[1]
OLD_CONFIG = ROOT / "results" / "digits.zip" / "seed0" / "config.json"  # of before the fields were renamed
RENAMED = [
    ("training.init_average", "training.init_from_ema", "true"),
    ("data.array_size", "data.input_size", "8"),
    ("training.steps_per_dispatch", "training.steps_per_call", "3"),
    ("optimizer.decays", "optimizer.weight_decay_mask", '"kernels"'),
    ("optimizer.backbone_rate", "optimizer.backbone_lr_multiplier", "0.25"),
    ("schedule.by_epoch", "schedule.step_per_epoch", "true"),
    ("schedule.from_start", "schedule.warmup_overlaps", "true"),
]
renamed = pytest.mark.parametrize(("old", "new", "value"), RENAMED)


def set_field(config, name, value):
    group, field = name.split(".")
    config[group][field] = value


def test_the_default_config_is_locked_and_valid():
    config = default_config()
    assert config.is_locked
    check_config(config)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("optimizer.learning_rat", "learning_rate"),
        ("training.batchsize", "batch_size"),
        ("data.evalsize", "eval_size"),
        ("schedule.warmup_epoch", "warmup_epochs"),
    ],
)
def test_an_unknown_field_is_refused_and_the_nearest_named(name, meant):
    with pytest.raises((AttributeError, KeyError), match=f"Did you mean.*{meant}"):
        set_field(default_config(), name, 1)


def test_an_unknown_field_of_the_network_is_refused_and_the_nearest_named():
    with pytest.raises((AttributeError, KeyError), match=r"Did you mean.*cardinality"):
        default_config().model.overrides.cardinalty = 32


@pytest.mark.parametrize(
    "name, value",
    [
        ("training.batch_size", "many"),
        ("training.batch_size", 1.5),
        ("training.epochs", "ten"),
        ("training.steps", "all"),
        ("augment.flip", "perhaps"),
        ("schedule.boundaries", 30),
        ("data.eval_size", "large"),
        ("model.name", 50),
    ],
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(TypeError):
        set_field(default_config(), name, value)


@pytest.mark.parametrize("field, value", [("cardinality", "32"), ("zero_init_last", 2), ("stage_sizes", 3)])
def test_an_override_of_another_type_than_the_networks_field_is_refused(field, value):
    with pytest.raises(TypeError):
        default_config().model.overrides[field] = value


def test_every_plain_field_of_a_network_can_be_overridden_and_none_is_at_first():
    fields = network_fields()
    assert {"stage_sizes", "block", "cardinality", "base_width", "shortcut", "zero_init_last"} <= set(fields)
    assert not {"name", "parent", "dtype", "norm_axis"} & set(fields)
    assert set(fields.values()) == {None}


@pytest.mark.parametrize(
    "name, value",
    [
        ("model.dtype", "float64"),
        ("data.image_size", 0),
        ("data.eval_size", 0),
        ("augment.pad", -1),
        ("data.size_schedule", ((10, 160), (0, 128))),
        ("data.size_schedule", ((0, 0),)),
        ("data.size_schedule", ((0, 128, 3),)),
        ("augment.policy", "trivial"),
        ("augment.magnitude", 10.5),
        ("augment.layers", 0),
        ("augment.color_jitter", 1.5),
        ("augment.lighting", -0.1),
        ("augment.erase", 1.1),
        ("augment.repeats", 0),
        ("augment.mixup", -0.1),
        ("augment.cutmix", -0.1),
        ("training.batch_size", 0),
        ("training.epochs", 0.0),
        ("training.epochs", -1.0),
        ("training.steps", 0),
        ("training.steps", 2**31),  # steps are counted in int32
        ("training.epochs", 1e9),
        ("training.batch_size", 10**9),
        ("data.workers", -1),
        ("training.microbatches", 0),
        ("training.label_smoothing", -0.1),
        ("training.label_smoothing", 1.0),
        ("training.ema_decay", -0.1),
        ("training.ema_decay", 1.0),
        ("training.log_every", 0),
        ("training.steps_per_call", -1),
        ("training.skip_nonfinite", -1),
        ("optimizer.weight_decay", -1e-4),
        ("optimizer.backbone_lr_multiplier", -0.1),
        ("evaluation.batch_size", 0),
        ("evaluation.every_epochs", 0),
        ("checkpoint.every_epochs", 0),
        ("checkpoint.keep_latest", 0),
        ("checkpoint.keep_best", -1),
        ("parallel.hosts", 0),
        ("parallel.heartbeat_seconds", 0),
        ("training.batch_size", None),
        ("training.epochs", float("nan")),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.weight_decay_mask", "everything"),
        ("schedule.boundaries", ((1,),)),
        ("schedule.boundaries", ("one",)),
        ("schedule.boundaries_steps", (1.5,)),
        ("schedule.warmup_steps", -1),
        ("evaluation.every_steps", 0),
        ("checkpoint.every_steps", 0),
        ("data.mean", ("a", "b", "c")),
        ("data.crop_scale", (0.1, 0.2, 0.3)),
        ("data.crop_scale", (0.5, 0.2)),
        ("data.interpolation", "lanczos"),
        ("parallel.norm_scope", "sync"),
        ("parallel.norm_group", 0),
        ("parallel.devices", -1),
        ("parallel.host", -1),
    ],
)
def test_a_value_that_no_run_can_have_is_refused_by_the_name_of_its_field(name, value):
    config = default_config()
    set_field(config, name, value)
    with pytest.raises(ConfigError, match=rf"^{name.replace('.', '[.]')} is .* and must be "):
        check_config(config)


@pytest.mark.parametrize(
    "name, value",
    [
        ("model.dtype", "bfloat16"),
        ("data.eval_size", 1),
        ("augment.pad", 0),
        ("data.size_schedule", ((0, 128), (0.5, 160))),
        ("augment.policy", "rand_augment"),
        ("augment.magnitude", 10.0),
        ("augment.erase", 1.0),
        ("augment.mixup", 0.2),
        ("training.batch_size", 1),
        ("training.epochs", 0.1),
        ("training.steps", 1),
        ("training.label_smoothing", 0.999),
        ("training.ema_decay", 0.9999),
        ("training.loss", "binary_cross_entropy"),
        ("optimizer.backbone_lr_multiplier", 0.0),
        ("checkpoint.keep_best", 0),
    ],
)
def test_the_last_value_before_a_limit_is_allowed(name, value):
    config = default_config()
    set_field(config, name, value)
    check_config(config)


def test_only_the_overrides_that_are_set_are_recorded():
    config = default_config()
    assert to_dict(config)["model"]["overrides"] == {}
    config.model.overrides.cardinality = 32
    config.model.overrides.zero_init_last = False
    assert to_dict(config)["model"]["overrides"] == {"cardinality": 32, "zero_init_last": False}


def test_the_record_of_a_config_is_json_and_has_every_field():
    config = default_config()
    config.model.overrides.stage_sizes = (1, 1)
    record = json.loads(json.dumps(to_dict(config), allow_nan=False))
    assert record["model"].pop("overrides") == {"stage_sizes": [1, 1]}
    assert {group: set(fields) for group, fields in record.items()} == {
        group: set(fields) - {"overrides"} for group, fields in config.items()
    }


def test_every_field_is_stated_with_a_sentence_and_a_default_that_is_allowed():
    assert {*FIELDS, *OVERRIDES, *ARGUMENTS} == {name for name, _ in flat(default_config())}
    for field in (*FIELDS.values(), *OVERRIDES.values(), *ARGUMENTS.values()):
        assert not field.meaning[0].islower() and field.meaning.endswith("."), field.name
        field.check(field.default)


def test_the_fields_that_may_change_on_resume_are_those_that_leave_the_result_as_it_is():
    assert set(MAY_CHANGE) == {
        "data.path",
        "data.workers",
        "training.log_every",
        "training.steps_per_call",
        "evaluation.batch_size",
        "evaluation.metrics",
        "logging.loggers",
        "logging.project",
        "checkpoint.every_epochs",
        "checkpoint.every_steps",
        "checkpoint.keep_latest",
        "checkpoint.keep_best",
        "parallel.devices",
        "parallel.coordinator",
        "parallel.hosts",
        "parallel.host",
        "parallel.heartbeat_seconds",
    }


def test_a_typed_config_has_the_values_of_its_fields_and_cannot_be_changed():
    config = default_config()
    config.model.overrides.cardinality = 32
    config.training.epochs = 3
    typed = typed_config(config)
    assert typed.training.epochs == 3.0 and typed.model.overrides == {"cardinality": 32}
    assert dataclasses.asdict(typed) == to_dict(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        typed.training.epochs = 4.0


@renamed
def test_an_earlier_name_on_the_command_line_is_answered_with_the_present_one(old, new, value, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for config, base in (("configs/digits.py", ""), ("configs/sweeps/shortcuts.py", "base.")):
        arguments = ["main.py", f"--config={config}", "--workdir=runs/x", f"--config.{base}{old}={value}"]
        assert command.main(arguments) == 2
        assert capsys.readouterr().err == f"error: {base}{old} is now called {base}{new}: use that name.\n"


@renamed
@pytest.mark.parametrize("unlocked", [False, True])
def test_an_earlier_name_in_a_config_file_is_answered_with_the_present_one(
    old, new, value, unlocked, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "mine.py"
    code = f"    config.{old} = {value.capitalize()}\n"
    file.write_text(
        "from resnet_jax.config import default_config\ndef get_config():\n    config = default_config()\n"
        + (f"    config.unlock()\n{code}" if unlocked else code)
        + "    return config\n"
    )
    assert command.main(["main.py", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"{old} is now called {new}: use that name.\n") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@renamed
def test_an_earlier_name_in_a_variant_of_a_sweep_is_answered_with_the_present_one(old, new, value):
    texts = dict.fromkeys(("title", "question", "source", "finding", "axis"), "?")
    variants = [Variant(label="one", fields={old: json.loads(value)})]
    with pytest.raises(ConfigError, match=f"it is now called {new}"):
        trials(sweep(default_config(), variants, **texts))


@renamed
def test_an_earlier_name_in_the_config_of_a_run_is_read_as_the_present_one(old, new, value, tmp_path):
    group, field = old.split(".")
    plain = read_json(OLD_CONFIG)
    assert field in plain[group]
    plain[group][field] = json.loads(value)
    (tmp_path / "config.json").write_text(json.dumps(plain))
    group, field = new.split(".")
    assert run_config(tmp_path / "config.json")[group][field] == json.loads(value)


def test_the_config_of_an_old_run_is_what_it_was_and_has_the_new_fields_at_their_defaults():
    plain = read_json(OLD_CONFIG)
    now = json.loads(json.dumps(to_dict(run_config(OLD_CONFIG))))
    assert flattened(upgraded(plain)) == flattened(now)
    names = {old: new for old, new, _ in RENAMED}
    for group, fields in plain.items():
        for field, value in fields.items():
            assert now[group][names.get(f"{group}.{field}", f"{group}.{field}").split(".")[1]] == value
    assert now["schedule"]["boundaries_steps"] == [] and now["schedule"]["warmup_steps"] is None


@pytest.mark.parametrize(
    ("steps", "value", "epochs", "other"),
    [
        ("schedule.warmup_steps", 400, "schedule.warmup_epochs", 1.0),
        ("schedule.boundaries_steps", (32_000, 48_000), "schedule.boundaries", (30.0,)),
        ("evaluation.every_steps", 100, "evaluation.every_epochs", 2),
        ("checkpoint.every_steps", 100, "checkpoint.every_epochs", 2),
    ],
)
def test_a_duration_is_in_steps_or_in_epochs_and_not_in_both(steps, value, epochs, other):
    config = default_config()
    set_field(config, steps, value)
    check_config(config)
    set_field(config, epochs, other)
    with pytest.raises(ConfigError, match=f"{steps} and {epochs} are both set"):
        check_config(config)


def test_help_lists_every_field_with_its_type_default_and_meaning(capsys):
    assert command.main(["main.py", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*FIELDS, *OVERRIDES, *ARGUMENTS):
        assert [line for line in lines if line.startswith(f"  --config.{name}  ")], name
    place = lines.index("  --config.optimizer.momentum  float; default 0.9; 0 or more and less than 1")
    assert lines[place + 1] == "      Momentum of SGD, LARS and SAM."
    assert "  --config.data.workers  int or None; default None; 0 to 1024; may change on resume" in lines


def test_help_for_a_word_lists_the_fields_that_mention_it(capsys):
    assert command.main(["main.py", "--help=Nesterov momentum"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "optimizer: The update rule.",
        "  --config.optimizer.nesterov  bool; default False",
        "      Use Nesterov momentum.",
    ]
    assert command.main(["main.py", "--help=wramup_epochs"]) == 2
    assert "mentions 'wramup_epochs', did you mean 'warmup_epochs'?" in capsys.readouterr().err
