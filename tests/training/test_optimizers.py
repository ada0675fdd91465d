import inspect
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.config import OPTIMIZER_ARGUMENTS
from resnet_jax.errors import ConfigError
from resnet_jax.models.resnet import ResNet
from resnet_jax.training.optimizers import (
    DECAY_NAMES,
    MASK_NAMES,
    OPTIMIZERS,
    create_optimizer,
    decay_mask,
    evaluation_params,
    optax_rules,
)

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
        weight_decay_mask=decays,
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
    optimizer = create_optimizer(name, constant(0.1), weight_decay=0.01, weight_decay_mask=decays)
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
    optimizer = create_optimizer("lars", constant(0.5), momentum=0.9, weight_decay=0.1, weight_decay_mask="kernels")
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
    optimizer = create_optimizer("lamb", constant(0.01), weight_decay=0.1, weight_decay_mask="kernels")
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


def flat(tree):
    return flax.traverse_util.flatten_dict(tree)


def conv_and_head(seed):
    rng = np.random.default_rng(seed)
    shapes = {("conv", "kernel"): (3, 3, 4, 6), ("bn", "scale"): (6,), ("head", "kernel"): (6, 5)}
    drawn = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    return flax.traverse_util.unflatten_dict(drawn)


def test_muon_orthogonalizes_a_convolution_as_a_matrix_and_leaves_the_rest_to_adam():
    params, gradients = conv_and_head(0), conv_and_head(1)
    (after,) = run(create_optimizer("muon", constant(0.5)), params, [gradients])
    step = {path: (flat(params)[path] - array) / 0.5 for path, array in flat(after).items()}
    matrix = np.asarray(step["conv", "kernel"], np.float64).reshape(36, 6)
    # Newton-Schulz takes singular values to about 1, and the shape scales them by sqrt(max(1, out / in)).
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.3
    polar = np.linalg.svd(flat(gradients)["conv", "kernel"].reshape(36, 6).astype(np.float64), full_matrices=False)
    direction = polar[0] @ polar[2]
    assert np.sum(direction * matrix) / np.linalg.norm(direction) / np.linalg.norm(matrix) > 0.97
    # The first step of Adam is the sign, and with Nesterov momentum 1 + b1 / (1 + b1) times as long (Dozat 2016).
    for path in (("bn", "scale"), ("head", "kernel")):
        np.testing.assert_allclose(step[path], np.sign(flat(gradients)[path]) * (1 + 0.9 / 1.9), rtol=1e-4)


def test_muon_decays_what_the_mask_says_both_of_its_own_and_of_adams_parameters():
    params, zeros = conv_and_head(0), jax.tree.map(np.zeros_like, conv_and_head(0))
    (after,) = run(
        create_optimizer("muon", constant(0.1), weight_decay=0.5, weight_decay_mask="kernels"), params, [zeros]
    )
    for path, weights in flat(params).items():
        expected = weights * (1 - 0.1 * 0.5) if path[-1] == "kernel" else weights
        np.testing.assert_allclose(flat(after)[path], expected, rtol=1e-6)


def test_sam_descends_along_the_gradient_uphill():
    curvature, rho, rate = np.array([1.0, 10.0], np.float32), 0.25, 0.5
    optimizer = create_optimizer("sam", constant(rate), momentum=0.0, arguments={"rho": rho})
    weights = np.array([3.0, -1.0], np.float32)
    params = {"head": {"kernel": weights}}
    gradient = jax.tree.map(lambda w: curvature * w, params)
    updates, _ = optimizer.update(
        gradient,
        optimizer.init(params),
        params,
        grad_fn=lambda params, _: jax.tree.map(lambda w: curvature * w, params),
    )
    g = curvature * weights
    expected = -rate * curvature * (weights + rho * g / np.linalg.norm(g))
    np.testing.assert_allclose(updates["head"]["kernel"], expected, rtol=1e-5)


def test_schedule_free_follows_the_papers_three_sequences_and_is_evaluated_at_their_average():
    b1, rate, rng = 0.9, 0.1, np.random.default_rng(0)
    start, gradients = rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    optimizer = create_optimizer("schedule_free", constant(rate), arguments={"b1": b1})
    params = {"head": {"kernel": jnp.asarray(start, jnp.float32)}}
    state, x, z = optimizer.init(params), start, start
    for number, gradient in enumerate(gradients, start=1):  # Defazio et al. 2024, equations 3 to 5
        updates, state = optimizer.update({"head": {"kernel": jnp.asarray(gradient, jnp.float32)}}, state, params)
        params = optax.apply_updates(params, updates)
        z = z - rate * gradient
        x = (1 - 1 / number) * x + z / number
        np.testing.assert_allclose(params["head"]["kernel"], (1 - b1) * z + b1 * x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(evaluation_params(params, state)["head"]["kernel"], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lion", "adam"])
def test_a_registered_name_takes_its_steps_as_optax_does_with_the_mask_and_the_arguments(name, network_params):
    gradients = [jax.tree.map(lambda w, s=s: np.cos(s * w), network_params) for s in (1, 2)]
    decay = {} if name == "adam" else {"weight_decay": 0.1}
    found = run(create_optimizer(name, constant(0.01), weight_decay_mask="kernels", arguments={"b1": 0.8}, **decay),
                network_params, gradients)  # fmt: skip
    masked = {"mask": decay_mask(network_params, "kernels")} if decay else {}
    expected = run(getattr(optax, name)(0.01, b1=0.8, **decay, **masked), network_params, gradients)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", ["optax.adabelief", "optax.rmsprop", "optax.contrib.ademamix", "muon", "sam"])
def test_a_share_of_the_rate_is_applied_to_rules_whose_updates_are_proportional_to_it(name):
    optimizer = create_optimizer(name, constant(0.25), backbone_lr_multiplier=0.5, momentum=0.0)
    whole, half = (create_optimizer(name, constant(rate), momentum=0.0) for rate in (0.25, 0.125))
    params, gradients = conv_and_head(0), conv_and_head(1)

    def update(rule):
        return flat(rule.update(gradients, rule.init(params), params, grad_fn=lambda params, _: gradients)[0])

    found, at_whole, at_half = update(optimizer), update(whole), update(half)
    for path, step in found.items():
        expected = at_whole if path[0] == "head" else at_half
        np.testing.assert_allclose(step, expected[path], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["schedule_free", "optax.fromage", "optax.contrib.madgrad", "optax.contrib.momo"])
def test_a_share_of_the_rate_is_refused_for_rules_whose_updates_are_not(name):
    with pytest.raises(
        ConfigError, match=r"not proportional to its learning rate.*leave optimizer.backbone_lr_multiplier at 1"
    ):
        create_optimizer(name, constant(0.25), backbone_lr_multiplier=0.5)


def test_every_argument_of_optax_that_is_a_number_a_name_or_a_tuple_is_a_field_and_no_other_is():
    group = {"learning_rate", *DECAY_NAMES, *MASK_NAMES, "trust_ratio_mask", "clip_norm"}
    others = {"base_optimizer", "clip_value_fn", "hessian_diagonal_fn", "key", "linesearch", "init_step"}
    others |= {"muon_weight_dimension_numbers", "weight_dimension_numbers"}
    rules = [*OPTIMIZERS.values(), *optax_rules().values()]
    known = {name for rule in rules for name in inspect.signature(rule).parameters} - group - others
    assert {name for names in OPTIMIZER_ARGUMENTS.values() for name in names} == known
