import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.data.augment import Augment
from resnet_jax.data.pipeline import EvaluationOrder, Resident, Streamed
from resnet_jax.data.sources import Arrays
from resnet_jax.errors import ConfigError
from resnet_jax.setup import build
from resnet_jax.training.metrics import Sums
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.parallel import Devices, Dispatch, repeat
from resnet_jax.training.state import TrainState
from resnet_jax.training.steps import eval_step, train_step


def run_steps(config, devices, scope, steps=3, group=1):
    config = config.copy_and_resolve_references()
    config.parallel.devices, config.parallel.norm_scope, config.parallel.norm_group = devices, scope, group
    trainer = build(config)
    state, key = trainer.initial_state(), trainer.key()
    data = trainer.devices.replicate(trainer.train_loader.data)
    for rows in trainer.train_loader.batches([(k, k + 1) for k in range(steps)]):
        state, means = trainer.train_program(state, data, trainer.devices.shard(rows), key)
    return jax.device_get((state, means))


def worst(one, another):
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max() / (np.abs(a).max() + 1e-3), one, another)
    return max(jax.tree.leaves(differences))


@pytest.fixture
def precise(small_config):
    """Without the first steps' chaos: rounding stays rounding for a few steps at a small rate."""
    small_config.optimizer.learning_rate = 0.01
    return small_config


@pytest.fixture
def one_device(precise):
    return run_steps(precise, 1, "local")


@pytest.mark.parametrize("devices", [3, 8])
def test_many_devices_with_global_batch_norm_train_as_one_device(precise, one_device, devices):
    state, means = run_steps(precise, devices, "global")
    expected, expected_means = one_device
    assert worst(expected.params, state.params) < 1e-4
    assert worst(expected.batch_stats, state.batch_stats) < 1e-4
    assert worst(expected_means, means) < 1e-3


def test_local_batch_norm_is_another_function_than_global(precise, one_device):
    state, _ = run_steps(precise, 8, "local")
    assert worst(one_device[0].params, state.params) > 1e-3


def test_groups_of_all_devices_are_global_and_groups_of_one_are_local(precise, one_device):
    assert worst(one_device[0].params, run_steps(precise, 8, "group", group=8)[0].params) < 1e-4
    local, groups_of_one = run_steps(precise, 8, "local")[0], run_steps(precise, 8, "group", group=1)[0]
    assert worst(local.params, groups_of_one.params) < 1e-6


def test_groups_of_two_normalize_as_half_as_many_local_devices(precise):
    pairs, halves = run_steps(precise, 8, "group", group=2)[0], run_steps(precise, 4, "local")[0]
    assert worst(halves.params, pairs.params) < 1e-4
    assert worst(halves.batch_stats, pairs.batch_stats) < 1e-4


def test_global_variance_is_that_of_the_whole_batch_and_not_the_mean_of_parts(precise):
    devices = Devices.create(4, "global")
    model = create_model(
        "cifar_resnet8", norm_axis=devices.norm_axis, stage_sizes=(1,), stage_widths=(8,), stem_width=8
    )
    # Parts of different brightness: their own variances say nothing of the whole one.
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 1)) + np.repeat(np.arange(4.0), 2)[:, None, None, None]
    variables = jax.device_get(model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1))))

    def stats(images):
        _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return updates["batch_stats"]["stem_bn"]["var"]

    spec = jax.sharding.PartitionSpec(("replica", "norm_group"))
    shared = jax.shard_map(
        stats, mesh=devices.mesh, in_specs=spec, out_specs=jax.sharding.PartitionSpec(), check_vma=False
    )
    kernel = variables["params"]["stem_conv"]["kernel"]
    maps = jax.lax.conv_general_dilated(
        jnp.asarray(images, jnp.float32), kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = 0.9 * 1.0 + 0.1 * np.asarray(maps, np.float64).var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(jax.jit(shared)(jnp.asarray(images, jnp.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_evaluation_counts_10000_of_10000_with_the_same_sums_on_any_number_of_devices(devices):
    random = np.random.default_rng(0)
    split = Arrays(
        random.integers(0, 256, (10_000, 8, 8, 1), np.uint8), random.integers(0, 10, 10_000).astype(np.int32)
    )
    mesh = Devices.create(devices, "local")
    model = create_model("cifar_resnet8", stage_sizes=(1,), stage_widths=(8,), stem_width=8)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    augment = Augment(mean=(0.5,), std=(0.25,), num_classes=10)
    loader = Resident(split, EvaluationOrder(10_000, 96, mesh.rows_of_host(96, "evaluation.batch_size")))
    program = mesh.eval_program(functools.partial(eval_step, model=model, inputs=augment.inputs), loader.read)
    arrays = mesh.replicate((variables["params"], variables["batch_stats"], loader.data))
    ranges = [(step, step + 1) for step in range(loader.order.steps)]
    total = sum((jax.device_get(program(*arrays, mesh.shard(rows))) for rows in loader.batches(ranges)), Sums.none())
    # The whole set in one call of the network, and NumPy's sort, are the other side.
    logits = np.asarray(model.apply(variables, augment.inputs(jnp.asarray(split.images)), train=False))
    order = np.argsort(-logits, axis=1, kind="stable")
    assert total.examples == 10_000
    assert total.totals["top1"] == (order[:, 0] == split.labels).sum()
    assert total.totals["top5"] == (order[:, :5] == split.labels[:, None]).any(axis=1).sum()
    log_sum = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(
        total.totals["loss"], (log_sum - logits[np.arange(10_000), split.labels]).sum(), rtol=1e-5
    )


def compiled_step(name, scope, size=64, dtype="float32"):
    """The optimized program of one train step on eight devices, and how many all-reduces it was written with."""
    devices = Devices.create(8, scope)
    model = create_model(name, norm_axis=devices.norm_axis, dtype=jnp.dtype(dtype))
    optimizer = create_optimizer("sgd", lambda step: 0.1)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        variables["params"],
        variables["batch_stats"],
        jax.eval_shape(optimizer.init, variables["params"]),
        None,
    )
    augment = Augment(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=model.num_classes, flip=True)
    step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment, average=devices.average)
    rows = {
        "image": jax.ShapeDtypeStruct((1, 16, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1, 16), jnp.int32),
        "position": jax.ShapeDtypeStruct((1, 16), jnp.uint32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    dispatch = Dispatch(rows, jax.ShapeDtypeStruct((), jnp.int32))
    lowered = devices.train_program(step, Streamed.read).lower(state, {}, dispatch, key)
    collectives = r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    return lowered.as_text().count("stablehlo.all_reduce"), re.findall(collectives, lowered.compile().as_text())


def test_resnext50_on_eight_devices_gathers_nothing_and_joins_its_all_reduces():
    _, compiled = compiled_step("resnext50_32x4d", "local")
    assert set(compiled) == {"all-reduce"} and len(compiled) <= 4


@pytest.mark.parametrize(("dtype", "a_layer"), [("bfloat16", 2), ("float32", 3)])
def test_global_batch_norm_adds_one_small_all_reduce_a_layer_and_direction(dtype, a_layer):
    """In float32 one more: of the shift that keeps a variance beside a large mean."""
    written, _ = compiled_step("cifar_resnet8", "local", size=16, dtype=dtype)
    with_norms, compiled = compiled_step("cifar_resnet8", "global", size=16, dtype=dtype)
    layers = 7
    assert with_norms - written <= a_layer * layers and set(compiled) == {"all-reduce"}


@pytest.mark.parametrize(("length", "taken"), [(1, 1), (4, 4), (4, 3), (4, 1)])
def test_repeat_is_a_scan_over_the_steps_that_are_taken(length, taken):
    rows = np.arange(2.0, 6.0)
    dispatch = Dispatch(jnp.asarray(rows[:length]), jnp.int32(taken))
    carry, seen = jax.jit(lambda carry, dispatch: repeat(lambda total, row: (total + row, total), carry, dispatch))(
        jnp.zeros(()), dispatch
    )
    assert carry == rows[:taken].sum()
    np.testing.assert_array_equal(seen, [*np.cumsum([0, *rows[: taken - 1]]), *[0] * (length - taken)])


def test_dispatches_of_fewer_steps_run_the_same_program(precise, one_device):
    """What a GPU would compile a minute for: the steps up to the end of an epoch are fewer than those before."""
    precise.training.steps_per_call, precise.parallel.devices = 2, 1
    trainer = build(precise)
    state, key = trainer.initial_state(), trainer.key()
    data = trainer.devices.replicate(trainer.train_loader.data)
    for rows in trainer.train_loader.batches([(0, 2), (2, 3)]):
        dispatch = trainer.devices.shard(rows, trainer.steps_per_call)
        state, means = trainer.train_program(state, data, dispatch, key)
        steps = int(dispatch.steps)
        assert np.all(means["loss"][:steps] > 0) and not np.any(means["loss"][steps:])
    assert trainer.train_program._cache_size() == 1
    assert int(state.step) == 3 and worst(one_device[0].params, state.params) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(count=9, norm_scope="local"), "9 and this machine has 8"),
        (dict(count=8, norm_scope="sync"), "local, group or global"),
        (dict(count=8, norm_scope="group", norm_group=3), "1, 2, 4, 8"),
    ],
)
def test_devices_that_cannot_be_had_are_refused_with_what_can(arguments, said):
    with pytest.raises(ConfigError, match=said):
        Devices.create(**arguments)


def test_a_batch_that_the_devices_cannot_share_is_refused_with_one_they_can():
    with pytest.raises(ConfigError, match=r"training.batch_size is 100, .* 8 devices .* such as 96"):
        Devices.create(8, "local").rows_of_host(100, "training.batch_size")
