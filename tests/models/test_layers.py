import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.layers import Conv
from tests.models.reference import convolve


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def kernel_of(conv, x):
    return conv.init(jax.random.key(0), x)["params"]["kernel"]


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_pads_both_sides_alike_at_odd_and_even_sizes(kernel_size, stride, size):
    x, kernel = noise(2, size, size, 3), noise(kernel_size, kernel_size, 3, 4, seed=1)
    y = Conv(4, kernel_size, stride).apply({"params": {"kernel": kernel}}, x)
    assert y.shape == (2, -(-size // stride), -(-size // stride), 4)
    np.testing.assert_allclose(y, convolve(x, kernel, stride), atol=1e-4)


def test_a_strided_kernel_sees_one_zero_row_above_and_none_below_at_even_sizes():
    """By hand: ones of 4x4 under ones of 3x3 with stride 2. Padding "SAME" would give [[9, 6], [6, 4]]."""
    y = Conv(1, 3, 2).apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6], [6, 9]])


@pytest.mark.parametrize(
    ("channels", "stride", "kernel_size", "blurred"),
    [(16, 2, 3, True), (18, 2, 1, True), (15, 2, 3, False), (16, 1, 3, False)],
)
def test_a_blur_comes_before_strides_of_16_channels_or_more(channels, stride, kernel_size, blurred):
    """As `BlurPoolConv2d` and `apply_blurpool` of ffcv-imagenet: 3x3 a channel, padded by one zero, with stride 1."""
    x, kernel = noise(2, 7, 7, channels), noise(kernel_size, kernel_size, channels, 4, seed=1)
    weights = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    read = convolve(x, np.tile(weights[:, :, None, None], channels), groups=channels) if blurred else x
    y = Conv(4, kernel_size, stride, blurs=True).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, convolve(read, kernel, stride), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_equal_a_dense_convolution_with_a_block_diagonal_kernel(groups, stride):
    inputs, outputs = 8, 12
    x, kernel = noise(2, 5, 5, inputs), noise(3, 3, inputs // groups, outputs, seed=1)
    dense = np.zeros((3, 3, inputs, outputs))
    for group in range(groups):
        rows = slice(group * inputs // groups, (group + 1) * inputs // groups)
        columns = slice(group * outputs // groups, (group + 1) * outputs // groups)
        dense[:, :, rows, columns] = kernel[..., columns]
    y = Conv(outputs, 3, stride, groups).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, convolve(x, dense, stride), atol=1e-4)


def test_the_only_parameter_is_a_kernel_with_the_channels_of_one_group():
    variables = Conv(12, 3, groups=4).init(jax.random.key(0), jnp.zeros((1, 5, 5, 8)))
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (3, 3, 2, 12)}}


@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (3, 1), (3, 8)])
def test_kernels_start_normal_with_variance_two_over_fan_out(kernel_size, groups):
    kernel = kernel_of(Conv(256, kernel_size, groups=groups), jnp.zeros((1, 3, 3, 64)))
    z = np.asarray(kernel) / np.sqrt(2 / (kernel_size**2 * 256))
    assert z.std() == pytest.approx(1, abs=0.03)
    # A normal distribution has 4.55 % of its values beyond two deviations; one truncated there has none.
    assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, abs=0.006)


def test_computes_in_the_given_type_from_a_float32_kernel():
    x = noise(1, 4, 4, 3)
    conv = Conv(4, 3, dtype=jnp.bfloat16)
    kernel = kernel_of(conv, x)
    y = conv.apply({"params": {"kernel": kernel}}, x)
    assert kernel.dtype == jnp.float32
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), convolve(x, kernel), atol=0.05)
