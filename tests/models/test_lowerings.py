"""Every lowering is the same function, with the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import onednn
from resnet_jax.models import lowerings
from resnet_jax.models.convolution import Conv
from resnet_jax.models.lowerings import LOWERINGS, Window, block_diagonal, choose, merged_groups
from tests.models.reference import convolve

# (kernel size, pixels, input channels, output channels, window): odd and even sizes, a depthwise and a dilated one.
SHAPES = [
    (3, 7, 16, 16, Window(groups=4)),
    (3, 8, 16, 32, Window(stride=2, groups=4)),
    (3, 7, 256, 256, Window(stride=2, groups=32)),
    (3, 9, 12, 24, Window(dilation=2, groups=3)),
    (3, 8, 8, 8, Window(groups=8)),
    (1, 5, 12, 8, Window(stride=2)),
    (7, 10, 3, 8, Window(stride=2)),
    (7, 11, 3, 8, Window(stride=2)),
    (5, 13, 1, 4, Window(stride=3)),
]


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def arrays(shape):
    kernel_size, pixels, inputs, outputs, window = shape
    return noise(2, pixels, pixels, inputs), noise(kernel_size, kernel_size, inputs // window.groups, outputs, seed=1)


def results(name, shape, dtype=jnp.float32):
    """The value and both gradients of a function of it whose slope is nowhere the same."""
    window = shape[-1]
    x, kernel = (array.astype(dtype) for array in arrays(shape))
    return jax.jit(value_and_gradients, static_argnums=0)(
        lambda x, kernel: LOWERINGS[name](x, kernel, window), x, kernel
    )


def value_and_gradients(function, x, kernel):
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


@functools.cache
def expected(shape):
    """By XLA's dense convolution of a kernel that NumPy made block-diagonal, one group after the other."""
    x, kernel = arrays(shape)
    groups = shape[-1].groups
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups

    def whole(kernel):
        rows = [
            jnp.pad(
                kernel[..., group * outputs : (group + 1) * outputs],
                ((0, 0), (0, 0), (group * inputs, (groups - 1 - group) * inputs), (0, 0)),
            )
            for group in range(groups)
        ]
        return jnp.concatenate(rows, axis=-1)

    window = Window(shape[-1].stride, shape[-1].dilation)
    dense = functools.partial(lowerings.xla, window=window)
    return jax.jit(value_and_gradients, static_argnums=0)(lambda x, kernel: dense(x, whole(kernel)), x, kernel)


def usable(name):
    if name == "onednn" and onednn.missing():
        pytest.skip(f"no oneDNN here: {onednn.missing()}")
    return name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOWERINGS)
def test_values_and_gradients_are_those_of_a_dense_convolution_with_zeros(name, shape):
    for made, wanted in zip(results(usable(name), shape), expected(shape), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", LOWERINGS)
def test_in_bfloat16_they_are_within_its_precision_of_float32(name):
    shape = SHAPES[1]
    for made, wanted in zip(results(usable(name), shape, jnp.bfloat16), expected(shape), strict=True):
        assert made.dtype == jnp.bfloat16
        np.testing.assert_allclose(made.astype(jnp.float32), wanted, rtol=0, atol=2**-6 * np.abs(wanted).max())


def test_the_value_is_the_sum_of_the_definition():
    x, kernel = arrays(SHAPES[1])
    np.testing.assert_allclose(lowerings.fastest(x, kernel, SHAPES[1][-1]), convolve(x, kernel, 2, 4), atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups", "width", "left"), [(128, 32, 128, 1), (1024, 32, 128, 8), (96, 3, 64, 3)]
)
def test_as_many_groups_are_merged_as_fit(channels, groups, width, left):
    assert merged_groups(channels, groups, width) == left
    assert merged_groups(channels, groups, None) == 1


def test_merging_two_of_four_groups_puts_zeros_where_they_do_not_meet():
    """By hand: one input and one output a group."""
    merged = block_diagonal(jnp.arange(1.0, 5.0).reshape(1, 1, 1, 4), groups=4, merge=2)
    np.testing.assert_array_equal(merged[0, 0], [[1, 0, 3, 0], [0, 2, 0, 4]])


def program_for(platform):
    """What is compiled for a platform, whether or not this machine is one."""
    x, kernel = arrays(SHAPES[0])
    traced = jax.jit(lambda x, kernel: lowerings.convolve(x, kernel, SHAPES[0][-1])).trace(x, kernel)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_that_is_compiled_for_decides_and_not_the_one_that_compiles():
    assert ("resnet_jax_onednn_forward" in program_for("cpu")) == (onednn.missing() is None)
    assert "feature_group_count = 1 " in program_for("tpu")
    assert "feature_group_count = 1 " in program_for("cuda")


@pytest.mark.parametrize("size", [224, 225])
def test_a_folded_stem_is_four_by_four_on_sixteen_channels_and_not_strided(size):
    images, kernel = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32), noise(7, 7, 3, 64)
    folded = functools.partial(lowerings.folded, window=Window(stride=2))
    (equation,) = [e for e in jax.make_jaxpr(folded)(images, kernel).eqns if e.primitive.name == "conv_general_dilated"]
    assert equation.invars[1].aval.shape == (4, 4, 16, 64)
    assert equation.params["window_strides"] == (1, 1)
    assert choose("gpu", "forward", 3, Window(stride=2)) == "folded"
    assert choose("gpu", "forward", 64, Window(stride=2)) == choose("tpu", "forward", 3, Window(stride=2)) == "xla"


def test_in_float64_nothing_is_rounded_to_float32():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, kernel = random.normal(size=(1, 5, 5, 4)), random.normal(size=(3, 3, 2, 4))
        made = lowerings.convolve(jnp.asarray(x), jnp.asarray(kernel), Window(groups=2))
        np.testing.assert_allclose(made, convolve(x, kernel, 1, 2), rtol=0, atol=1e-12)


def test_a_lowering_can_be_asked_for():
    x, kernel = arrays(SHAPES[0])
    with lowerings.use("xla"):
        program = jax.make_jaxpr(lambda x, kernel: lowerings.convolve(x, kernel, SHAPES[0][-1]))(x, kernel)
    assert [equation.primitive.name for equation in program.eqns] == ["conv_general_dilated"]


def test_a_batch_of_networks_is_convolved_as_each_of_them():
    conv = Conv(8, 3, groups=2)
    x, kernels = noise(3, 2, 6, 6, 4), noise(3, 3, 3, 2, 8, seed=1)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(conv.apply({"params": {"kernel": kernel}}, x)))

    together = jax.vmap(jax.grad(loss))(kernels, x)
    for kernel, images, gradient in zip(kernels, x, together, strict=True):
        np.testing.assert_allclose(gradient, jax.grad(loss)(kernel, images), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_whatever_is_chosen_exists(platform):
    for direction in onednn.DIRECTIONS:
        for groups in (1, 32):
            assert choose(platform, direction, 1024, Window(groups=groups)) in LOWERINGS
