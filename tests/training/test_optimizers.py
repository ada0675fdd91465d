import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.models.resnet import ResNet
from resnet_jax.training.optimizers import OPTIMIZERS, create_optimizer, decay_mask

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch_training.npz"
RATES = np.array([0.5, 0.5, 0.05, 0.05, 0.2], np.float32)


def constant(rate):
    return lambda step: jnp.asarray(rate, jnp.float32)


def rate_of_step(rates):
    return lambda step: jnp.asarray(rates, jnp.float32)[step]


def two_blocks(rng):
    """Parameters named as a network names them, and their kinds: kernels, a scale, biases."""
    return {
        "conv": {"kernel": rng.normal(size=(3, 2)).astype(np.float32)},
        "bn": {"scale": rng.normal(size=4).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)},
        "head": {"kernel": rng.normal(size=(4, 2)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)},
    }


@pytest.fixture(scope="module")
def network_params():
    """The parameters of a small network, all of them drawn at random, since biases start at 0."""
    model = ResNet(stage_sizes=(1, 1), stage_widths=(8, 16), stem="cifar", stem_width=8, num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda shape: rng.normal(size=shape.shape).astype(np.float32), shapes)


def torch_sgd(weights, gradients, rates, momentum, nesterov, weight_decay):
    """The update of torch.optim.SGD's documentation for one array, in float64; the weights after each step."""
    weights, buffer, passed = weights.astype(np.float64), 0.0, []
    for gradient, rate in zip(gradients, rates, strict=True):
        d = gradient + weight_decay * weights
        buffer = momentum * buffer + d
        d = d + momentum * buffer if nesterov else buffer
        weights = weights - rate * d
        passed.append(weights)
    return passed


def run(optimizer, params, gradients):
    """The parameters after each step along given gradients."""
    state, passed = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        passed.append(params)
    return passed


@pytest.mark.parametrize("decays", ["all", "kernels"])
@pytest.mark.parametrize(
    "momentum, nesterov, weight_decay",
    [(0.0, False, 0.0), (0.0, False, 0.1), (0.9, False, 0.0), (0.9, False, 0.1), (0.875, True, 0.0), (0.9, True, 0.1)],
)
def test_sgd_follows_the_equation_of_torch_while_the_rate_changes(momentum, nesterov, weight_decay, decays):
    rng = np.random.default_rng(0)
    params, gradients = two_blocks(rng), [two_blocks(rng) for _ in RATES]
    optimizer = create_optimizer(
        "sgd",
        rate_of_step(RATES),
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        decays=decays,
    )
    passed = [flax.traverse_util.flatten_dict(step) for step in run(optimizer, params, gradients)]
    for path, weights in flax.traverse_util.flatten_dict(params).items():
        decay = weight_decay if decays == "all" or path[-1] == "kernel" else 0.0
        along = [flax.traverse_util.flatten_dict(gradient)[path] for gradient in gradients]
        expected = torch_sgd(weights, along, RATES, momentum, nesterov, decay)
        for step, reference in zip(passed, expected, strict=True):
            np.testing.assert_allclose(step[path], reference, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "name, momentum, nesterov, weight_decay",
    [
        ("plain", 0.0, False, 0.0),
        ("decayed", 0.0, False, 0.05),
        ("momentum", 0.9, False, 0.0),
        ("momentum_decayed", 0.9, False, 0.05),
        ("nesterov", 0.875, True, 0.0),
        ("nesterov_decayed", 0.875, True, 0.05),
    ],
)
def test_sgd_goes_where_torch_went(name, momentum, nesterov, weight_decay):
    with np.load(GOLDEN) as golden:
        weights, curvature, targets, rates = (
            golden[f"sgd_{part}"].astype(np.float32) for part in ("weights", "curvature", "targets", "rates")
        )
        expected = golden[f"sgd_{name}"]
    optimizer = create_optimizer(
        "sgd", rate_of_step(rates), momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    params = {"kernel": jnp.asarray(weights)}
    state = optimizer.init(params)
    for target, after in zip(targets, expected, strict=True):
        gradient = {"kernel": curvature * (params["kernel"] - target)}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["kernel"], after, rtol=1e-5, atol=1e-5)


DECAYS = ("all", "all_but_norm", "all_but_branch_norm", "kernels")


def test_what_decays_is_all_or_all_but_batch_norm_or_kernels_alone(network_params):
    params = flax.traverse_util.flatten_dict(network_params)
    masks = {decays: flax.traverse_util.flatten_dict(decay_mask(network_params, decays)) for decays in DECAYS}
    left_out = {decays: {path for path, decayed in mask.items() if not decayed} for decays, mask in masks.items()}
    assert all(mask.keys() == params.keys() for mask in masks.values())
    assert left_out["all"] == set()
    # Kernels are the parameters of two axes or more; BatchNorm's scales and all biases have one.
    assert left_out["kernels"] == {path for path, array in params.items() if array.ndim == 1}
    assert left_out["kernels"] - left_out["all_but_norm"] == {("head", "bias")}
    # In ffcv-imagenet "bn" has to be in the name: torchvision's projections are "downsample.1".
    projection = {("stage2_block1", "shortcut_bn", leaf) for leaf in ("scale", "bias")}
    assert left_out["all_but_norm"] - left_out["all_but_branch_norm"] == projection


def test_an_unknown_rule_of_decay_is_refused(network_params):
    with pytest.raises(ConfigError, match="'all_but_norms', did you mean 'all_but_norm'"):
        decay_mask(network_params, "all_but_norms")


@pytest.mark.parametrize("decays", ["all", "kernels"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("adam", "sam")])
def test_without_a_gradient_decay_alone_shrinks_what_decays_and_nothing_else_moves(name, decays, network_params):
    optimizer = create_optimizer(name, constant(0.1), weight_decay=0.01, decays=decays)
    zeros = jax.tree.map(np.zeros_like, network_params)
    (after,) = run(optimizer, network_params, [zeros])
    before, after = flax.traverse_util.flatten_dict(network_params), flax.traverse_util.flatten_dict(after)
    for path, weights in before.items():
        if decays == "all" or path[-1] == "kernel":
            ratio = np.asarray(after[path]) / weights
            np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.flat[0]), rtol=1e-5)
            assert ratio.flat[0] < 1 - 1e-6
        else:
            # A schedule-free rule adds the weights up from two sequences, which rounds them.
            np.testing.assert_allclose(after[path], weights, rtol=3e-7 if name == "schedule_free" else 0, atol=0)


def test_sgd_shrinks_weights_by_rate_times_decay(network_params):
    optimizer = create_optimizer("sgd", constant(0.1), momentum=0.9, weight_decay=0.01)
    (after,) = run(optimizer, network_params, [jax.tree.map(np.zeros_like, network_params)])
    expected = jax.tree.map(lambda weights: weights * (1 - 0.1 * 0.01), network_params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), after, expected)


def test_lars_scales_a_kernels_step_by_its_norm_and_leaves_undecayed_parameters_to_plain_momentum():
    rng = np.random.default_rng(0)
    params, gradients = two_blocks(rng), two_blocks(rng)
    optimizer = create_optimizer("lars", constant(0.5), momentum=0.9, weight_decay=0.1, decays="kernels")
    first, second = (flax.traverse_util.flatten_dict(step) for step in run(optimizer, params, [gradients, gradients]))
    gradients = flax.traverse_util.flatten_dict(gradients)
    for path, weights in flax.traverse_util.flatten_dict(params).items():
        velocity = 0.0
        for after in (first[path], second[path]):
            direction = gradients[path].astype(np.float64)
            if path[-1] == "kernel":
                direction = direction + 0.1 * weights
                direction *= 0.001 * np.linalg.norm(weights) / np.linalg.norm(direction)  # its trust coefficient
            velocity = 0.9 * velocity + 0.5 * direction  # the rate is inside: You et al. 2017, algorithm 1
            weights = weights - velocity
            np.testing.assert_allclose(after, weights, rtol=1e-5, atol=1e-6)


def test_lamb_steps_are_as_long_as_the_weights_times_the_rate():
    rng = np.random.default_rng(0)
    params, gradients = two_blocks(rng), two_blocks(rng)
    optimizer = create_optimizer("lamb", constant(0.01), weight_decay=0.1, decays="kernels")
    (after,) = run(optimizer, params, [gradients])
    after, gradients = flax.traverse_util.flatten_dict(after), flax.traverse_util.flatten_dict(gradients)
    for path, weights in flax.traverse_util.flatten_dict(params).items():
        # At the first step Adam's corrected moments are g and g * g.
        direction = gradients[path] / (np.abs(gradients[path]) + 1e-6) + (0.1 * weights if path[-1] == "kernel" else 0)
        expected = weights - 0.01 * np.linalg.norm(weights) * direction / np.linalg.norm(direction)
        np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_parabola(name, network_params):
    optimizer = create_optimizer(name, constant(0.02), weight_decay=0.0 if name == "adam" else 1e-4)
    params, state = network_params, optimizer.init(network_params)

    @jax.jit
    def step(params, state):
        # the gradient of |w|^2 / 2
        updates, state = optimizer.update(params, state, params, grad_fn=lambda params, _: params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    assert optax.tree.norm(params) < optax.tree.norm(network_params)


@pytest.mark.parametrize("limit, factor", [(0.0, 1.0), (100.0, 1.0), (1.0, 0.2)])
def test_clip_norm_shortens_longer_gradients_to_it_and_leaves_others(limit, factor):
    params = {"a": {"kernel": np.zeros((1, 1), np.float32)}, "b": {"bias": np.zeros(1, np.float32)}}
    gradients = {"a": {"kernel": np.array([[3.0]], np.float32)}, "b": {"bias": np.array([-4.0], np.float32)}}
    optimizer = create_optimizer("sgd", constant(1.0), momentum=0.0, clip_norm=limit)
    (after,) = run(optimizer, params, [gradients])
    np.testing.assert_allclose(after["a"]["kernel"], [[-3.0 * factor]], rtol=1e-6)
    np.testing.assert_allclose(after["b"]["bias"], [4.0 * factor], rtol=1e-6)


def test_clip_norm_leaves_weight_decay_alone():
    params, gradients = {"kernel": np.array([10.0], np.float32)}, {"kernel": np.array([5.0], np.float32)}
    optimizer = create_optimizer("sgd", constant(0.1), momentum=0.0, weight_decay=0.5, clip_norm=1.0)
    (after,) = run(optimizer, params, [gradients])
    np.testing.assert_allclose(after["kernel"], [10.0 - 0.1 * (1.0 + 0.5 * 10.0)], rtol=1e-6)


def test_an_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'lamp', did you mean 'lamb'\?.*adam, adamw, lamb.*module:name"):
        create_optimizer("lamp", constant(0.1))
