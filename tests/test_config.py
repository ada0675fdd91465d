import json

import pytest

from resnet_jax.config import check_config, default_config, network_fields, to_dict
from resnet_jax.errors import ConfigError


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
        ("training.steps_per_dispatch", -1),
        ("training.skip_nonfinite", -1),
        ("optimizer.weight_decay", -1e-4),
        ("optimizer.backbone_rate", -0.1),
        ("evaluation.batch_size", 0),
        ("evaluation.every_epochs", 0),
        ("checkpoint.every_epochs", 0),
        ("checkpoint.keep_latest", 0),
        ("checkpoint.keep_best", -1),
        ("parallel.hosts", 0),
        ("parallel.heartbeat_seconds", 0),
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
        ("optimizer.backbone_rate", 0.0),
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
