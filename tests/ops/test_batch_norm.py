"""BatchNorm against its equation, and its gradient against the one that JAX derives from the equation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.errors import ConfigError
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import relu
from resnet_jax.ops.projection import by_covariance, by_maps

POOLING = ops.Pooling(3, 2, 1)
EPSILON = 1e-3


def case(*shape, dtype=jnp.float64, seed=0):
    """Return maps far from zero, scales of both signs, biases, and weights for a sum over as many maps."""
    random = np.random.default_rng(seed)
    x = 3 + 2 * random.normal(size=shape)
    scale = np.linspace(-1.5, 1.5, shape[-1])
    return tuple(jnp.asarray(each, dtype) for each in (x, scale, random.normal(size=shape[-1:])))


def by_the_equation(x, scale, bias, activate, pooling):
    over = tuple(range(x.ndim - 1))
    mean = x.mean(over)
    var = ((x - mean) ** 2).mean(over)
    y = (x - mean) / jnp.sqrt(var + EPSILON) * scale + bias
    y = nn.relu(y) if activate else y
    if pooling is not None:
        window, stride, padding = pooling
        y = nn.max_pool(y, (window, window), (stride, stride), ((padding, padding), (padding, padding)))
    return y, mean, var


def normalize(x, scale, bias, activate=False, pooling=None, axes=None, implementation="fast"):
    fields = dict(activate=activate, pooling=pooling, axes=axes, implementation=implementation)
    return ops.batch_norm(x, scale, bias, epsilon=EPSILON, **fields)


def weights(y):
    return jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize(("activate", "pooling"), [(False, None), (True, None), (True, POOLING)])
def test_values_statistics_and_gradients_are_those_of_the_equation(activate, pooling, implementation):
    with jax.enable_x64(True):
        arguments = case(4, 9, 8, 5)

        def of(function):
            def total(*arguments):
                y = function(*arguments)[0]
                return jnp.sum(weights(y) * y)

            return function(*arguments), jax.grad(total, argnums=(0, 1, 2))(*arguments)

        found = of(lambda *arguments: normalize(*arguments, activate, pooling, implementation=implementation))
        expected = of(lambda *arguments: by_the_equation(*arguments, activate, pooling))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-12), found, expected)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("activate", [False, True])
def test_statistics_shared_over_an_axis_have_the_gradients_of_the_whole_batch(activate, implementation):
    with jax.enable_x64(True):
        x, scale, bias = case(6, 4, 4, 5)

        share = weights(x)

        def total(function, x, scale, bias, share):
            return jnp.sum(share * function(x, scale, bias))

        def of_part(x, share):
            """The gradients of one part's sum by everything, as one device of a step takes them."""
            one = functools.partial(total, lambda *given: normalize(*given, activate, None, "parts", implementation)[0])
            return jax.grad(one, argnums=(0, 1, 2))(x, scale, bias, share)

        parts = (each.reshape(3, 2, 4, 4, 5) for each in (x, share))
        dx, to_scale, to_bias = jax.vmap(of_part, axis_name="parts")(*parts)
        whole = functools.partial(total, lambda *given: by_the_equation(*given, activate, None)[0])
        expected = jax.grad(whole, argnums=(0, 1, 2))(x, scale, bias, share)
        found = (dx.reshape(x.shape), to_scale.sum(0), to_bias.sum(0))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-12), found, expected)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_norm_that_pools_is_the_same_as_one_that_is_pooled_whatever_its_scales(running, dtype):
    """To the last bit or two of float32: the statistics are those of other programs."""
    x, scale, bias = case(4, 9, 8, 5, dtype=jnp.float32)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": 3 + scale, "var": 2 + scale},
    }
    norm = BatchNorm(dtype=dtype)

    def one_by_one(variables, x):
        y, moved = norm.apply(variables, x, running, activate=True, mutable=["batch_stats"])
        return nn.max_pool(y, (3, 3), (2, 2), ((1, 1), (1, 1))), moved

    def at_once(variables, x):
        return norm.apply(variables, x, running, activate=True, pooling=POOLING, mutable=["batch_stats"])

    (y, moved), (expected, expected_moved) = at_once(variables, x), one_by_one(variables, x)
    assert y.dtype == dtype and np.any(np.asarray(y) > 0)
    same = functools.partial(np.testing.assert_allclose, rtol=5e-7)
    same(y.astype(jnp.float32), expected.astype(jnp.float32))
    jax.tree.map(same, moved, expected_moved)

    def gradients(function):
        def total(params, x):
            y = function(variables | {"params": params}, x)[0].astype(jnp.float32)
            return jnp.sum(weights(y) * y)

        return jax.grad(total, argnums=(0, 1))(variables["params"], x)

    if dtype == jnp.float32:
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
            gradients(at_once),
            gradients(one_by_one),
        )


def test_in_bfloat16_values_and_gradients_are_rounded_once():
    x, scale, bias = case(8, 6, 6, 5, dtype=jnp.float32)
    x = x.astype(jnp.bfloat16)

    def gradient(x):
        def total(x):
            y = normalize(x, scale, bias, True)[0].astype(jnp.float32)
            return jnp.sum(weights(y) * y)

        return jax.grad(total)(x)

    exact, rounded = gradient(x.astype(jnp.float32)), gradient(x)
    assert rounded.dtype == jnp.bfloat16
    # Rounding the incoming gradient and the result changes each by 2**-9 of itself at most.
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=3 * 2**-9 * float(jnp.max(jnp.abs(exact))))


def test_relu_has_the_values_and_gradients_of_jax():
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf])
    np.testing.assert_array_equal(relu(x), nn.relu(x))
    np.testing.assert_array_equal(jax.grad(lambda x: relu(x)[:5].sum())(x), jax.grad(lambda x: nn.relu(x)[:5].sum())(x))
    assert np.isnan(relu(jnp.asarray(jnp.nan)))


def test_the_module_is_flaxs_but_for_the_unbiased_variance():
    x = case(4, 5, 5, 6, dtype=jnp.float32)[0]
    own, flaxs = BatchNorm(momentum=0.7, epsilon=EPSILON, unbiased=False), nn.BatchNorm(momentum=0.7, epsilon=EPSILON)
    variables = own.init(jax.random.key(0), x, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, variables, flaxs.init(jax.random.key(0), x, use_running_average=False))
    for running in (False, True):
        one, other = (
            norm.apply(variables, x, use_running_average=running, mutable=["batch_stats"]) for norm in (own, flaxs)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)


def test_a_frozen_norm_ends_in_relu_and_pooling_too_and_keeps_its_statistics():
    x = case(2, 8, 8, 6, dtype=jnp.float32)[0]
    frozen = BatchNorm(frozen=True)
    variables = frozen.init(jax.random.key(0), x, use_running_average=False)
    y, moved = frozen.apply(
        variables, x, use_running_average=False, activate=True, pooling=POOLING, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, nn.max_pool(nn.relu(x / np.sqrt(1 + 1e-5)), (3, 3), (2, 2), ((1, 1), (1, 1))))
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


def test_a_gpu_keeps_nothing_of_the_forward_pass_but_what_the_convolution_gave():
    """Its program sees the maps of the backward pass as others than those of the forward pass, and a CPU's does not."""
    x, scale, bias = case(2, 4, 4, 3, dtype=jnp.float32)

    def total(x):
        return normalize(x, scale, bias, True)[0].sum()

    def text(platform):
        return jax.jit(jax.grad(total)).trace(x).lower(lowering_platforms=(platform,)).as_text()

    assert "optimization_barrier" in text("cuda")
    assert "optimization_barrier" not in text("cpu") and "optimization_barrier" not in text("tpu")


def projection(*shape, dtype=jnp.float64):
    """Return maps of 3 channels, a kernel that makes them 8, and scales and biases of these."""
    _, scale, bias = case(1, 8, dtype=dtype)
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 3, 8)), dtype)
    return case(*shape, 3, dtype=dtype)[0], kernel, scale, bias


WAYS = (ops.project, by_maps, by_covariance)


@pytest.mark.parametrize("way", WAYS)
def test_a_projection_has_values_statistics_and_gradients_of_the_equation(way):
    with jax.enable_x64(True):
        arguments = projection(4, 5, 6)

        def of(function):
            def total(*arguments):
                y = function(*arguments)[0]
                return jnp.sum(weights(y) * y)

            return function(*arguments), jax.grad(total, argnums=(0, 1, 2, 3))(*arguments)

        found = of(lambda *arguments: way(*arguments, EPSILON, None))
        expected = of(lambda x, kernel, *rest: by_the_equation(x @ kernel[0, 0], *rest, False, None))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-11), found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_projection_shares_its_statistics_over_an_axis(way):
    with jax.enable_x64(True):
        x, kernel, scale, bias = given = projection(6, 4, 4)
        share = weights(x @ kernel[0, 0])

        def of_part(x, share):
            """The gradients of one part's sum by everything, as one device of a step takes them."""

            def total(*given):
                return jnp.sum(share * way(*given, EPSILON, "parts")[0])

            return jax.grad(total, argnums=(0, 1, 2, 3))(x, kernel, scale, bias), way(
                x, kernel, scale, bias, EPSILON, "parts"
            )

        def whole(x, kernel, *rest):
            return by_the_equation(x @ kernel[0, 0], *rest, False, None)

        parts = (each.reshape(3, 2, 4, 4, -1) for each in (x, share))
        (dx, *others), (y, *statistics) = jax.vmap(of_part, axis_name="parts")(*parts)
        found = (dx.reshape(x.shape), *(each.sum(0) for each in others))
        expected = jax.grad(lambda *given: jnp.sum(share * whole(*given)[0]), argnums=(0, 1, 2, 3))(*given)
        values = (y.reshape(share.shape), *(each[1] for each in statistics))
        check = functools.partial(np.testing.assert_allclose, atol=1e-11)
        jax.tree.map(check, (found, values), (expected, whole(*given)))


def test_only_a_tpu_computes_statistics_by_covariance():
    """The covariance is the one product of matrices in the program: what is normalized comes from a convolution."""

    def products(platform, implementation="fast"):
        traced = jax.jit(lambda *given: ops.project(*given, EPSILON, None, implementation)).trace(*given)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("dot_general")

    given = projection(4, 5, 6, dtype=jnp.float32)
    assert products("tpu") > 0 and products("cpu") == products("cuda") == 0
    assert products("cpu", "fast_covariance") > 0
    assert products("tpu", "fast_maps") == 0


@pytest.mark.parametrize("order", ["original", "relu_before_addition", "relu_preactivation"])
def test_a_network_of_bottlenecks_is_the_same_by_covariance(order):
    """Loss, gradients and running statistics; in float64, where the two ways agree to rounding."""
    with jax.enable_x64(True):
        fields = dict(stem="cifar", stem_width=8, num_classes=5, activation_order=order, dtype=jnp.float64)
        model = ResNet((2, 1), (8, 16), "bottleneck", shortcut="C", **fields)
        images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), model.init(jax.random.key(0), images))

        def loss(params, implementation):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            network = model.clone(implementation=implementation)
            logits, moved = network.apply(state, images, train=True, mutable=["batch_stats"])
            return jnp.sum(weights(logits) * logits), moved

        def measured(implementation):
            one = functools.partial(loss, implementation=implementation)
            program = str(jax.make_jaxpr(one)(variables["params"]))
            return program.count("_by_platform"), jax.jit(jax.value_and_grad(one, has_aux=True))(variables["params"])

        by_platform, expected = measured("fast")
        none, found = measured("fast_covariance")
        assert by_platform > none == 0
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-8), found, expected)
        assert jax.tree.structure(found) == jax.tree.structure(expected)


def test_in_bfloat16_a_projection_by_covariance_is_near_that_of_the_maps():
    x, *_ = case(8, 7, 7, 16, dtype=jnp.bfloat16)
    scale, bias = jnp.linspace(0.5, 1.5, 64), jnp.zeros(64)
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 16, 64)) / 4, jnp.float32)
    ways = (by_covariance, by_maps)
    one, other = (way(x, kernel, scale, bias, EPSILON, None) for way in ways)
    assert one[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(one[0].astype(jnp.float32), other[0].astype(jnp.float32), atol=0.06)
    np.testing.assert_allclose(one[1], other[1], rtol=0.01, atol=0.02)
    np.testing.assert_allclose(one[2], other[2], rtol=0.02)


# Means that are large against the deviation


PATHS = {
    "alone": dict(),
    "with ReLU": dict(activate=True),
    "with ReLU and pooling": dict(activate=True, pooling=POOLING),
    "by groups of devices": dict(axes="parts"),
}


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("ratio", [1, 100, 3000, 10_000])
@pytest.mark.parametrize("path", PATHS)
def test_a_mean_many_times_the_deviation_loses_nothing_of_float32(path, ratio, implementation):
    """Against the equation in float64 on the same float32 values, whose own rounding is `ratio` * 2**-24 of them.

    E[x^2] - E[x]^2 has an error of 100 deviations at a ratio of 3000.
    """
    random, fields = np.random.default_rng(0), PATHS[path]
    x = jnp.asarray(0.1 * (ratio + random.normal(size=(6, 9, 8, 5))), jnp.float32)
    scale, bias = (jnp.asarray(random.normal(size=5), jnp.float32) for _ in range(2))
    axes = fields.get("axes")

    def measured(function, x, scale, bias, share):
        """The values, the gradients of the weighted sum of their squares, and the statistics."""

        def total(x, scale, bias):
            y = function(x, scale, bias)[0]
            return jnp.sum(share * y * y)

        return function(x, scale, bias), jax.grad(total, (0, 1, 2))(x, scale, bias)

    normal = functools.partial(normalize, implementation=implementation, **fields)
    shape = jax.eval_shape(lambda x: by_the_equation(x, scale, bias, True, fields.get("pooling"))[0], x).shape
    share = weights(jnp.zeros(shape))
    if axes:
        parts = (each.reshape(3, 2, *each.shape[1:]) for each in (x, share))
        one = jax.vmap(lambda x, share: measured(normal, x, scale, bias, share), axis_name=axes)
        (y, mean, var), (dx, *others) = one(*parts)
        found = (y.reshape(x.shape), mean[0], var[0]), (dx.reshape(x.shape), *(each.sum(0) for each in others))
    else:
        found = measured(normal, x, scale, bias, share)
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(each, np.float64)) for each in (x, scale, bias, share))
        activate, pooling = fields.get("activate", False), fields.get("pooling")
        expected = measured(lambda *each: by_the_equation(*each, activate, pooling), *wide)
    near = 2e-6 + 4 * ratio * 2**-24  # of the largest value
    (y, mean, var), gradients = found
    np.testing.assert_allclose(mean, expected[0][1], rtol=2**-23, atol=1e-7)
    np.testing.assert_allclose(var, expected[0][2], rtol=max(1e-5, ratio * 2**-24))
    np.testing.assert_allclose(y, expected[0][0], atol=near * np.abs(expected[0][0]).max())
    if not activate:  # the corner of a ReLU lies elsewhere, within rounding
        for one, other in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(one, other, atol=20 * near * np.abs(other).max())


@pytest.mark.parametrize("ratio", [1, 100, 3000, 10_000])
@pytest.mark.parametrize("way", WAYS)
def test_a_projection_of_maps_with_a_large_mean_loses_nothing(way, ratio):
    random = np.random.default_rng(0)
    x = np.asarray(0.1 * (ratio + random.normal(size=(6, 5, 4, 3))), np.float32)
    kernel = np.asarray(random.normal(size=(1, 1, 3, 8)), np.float32)
    scale, bias = (np.asarray(random.normal(size=8), np.float32) for _ in range(2))
    y, mean, var = way(*(jnp.asarray(each) for each in (x, kernel, scale, bias)), EPSILON, None)
    wide = [np.asarray(each, np.float64) for each in (x, kernel, scale, bias)]
    with jax.enable_x64(True):
        expected = by_the_equation(jnp.asarray(wide[0] @ wide[1][0, 0]), *wide[2:], False, None)
    near = 5e-6 + 20 * ratio * 2**-24  # the products of a projection are rounded before they are normalized
    np.testing.assert_allclose(mean, expected[1], rtol=1e-5, atol=1e-5 * ratio)
    np.testing.assert_allclose(var, expected[2], rtol=2 * near)
    np.testing.assert_allclose(y, expected[0], atol=near * np.abs(expected[0]).max())


def test_a_fresh_module_at_mean_300_and_deviation_a_tenth_is_right():
    """The case in which the result was off by 122."""
    x = jnp.asarray(300 + 0.1 * np.random.default_rng(0).normal(size=(8, 4, 4, 2)), jnp.float32)
    norm = BatchNorm(unbiased=False)
    variables = norm.init(jax.random.key(0), x, False)
    y, moved = norm.apply(variables, x, False, mutable=["batch_stats"])
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-3)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 + 0.1 * wide.var((0, 1, 2)), rtol=1e-6)


def test_one_value_a_channel_is_refused_as_torch_does():
    norm = BatchNorm()
    x = jnp.ones((1, 1, 1, 4))
    variables = norm.init(jax.random.key(0), x, False)
    with pytest.raises(ConfigError, match="cannot train on one value a channel"):
        norm.apply(variables, x, False, mutable=["batch_stats"])
    norm.apply(variables, x, True)
    BatchNorm(frozen=True).apply(variables, x, False, mutable=["batch_stats"])
    many = BatchNorm(axis_name="parts")
    shared = jax.vmap(lambda x: many.apply(variables, x, False, mutable=["batch_stats"])[0], axis_name="parts")
    assert np.isfinite(shared(jnp.ones((2, 1, 1, 1, 4)))).all()
