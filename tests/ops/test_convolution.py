"""Every program is the same function, with the same gradients, and the fast one differentiates to any order."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.models.layers import Conv
from resnet_jax.ops import Window, grouped, onednn
from resnet_jax.ops.choice import PROGRAMS, TABLE, choose
from resnet_jax.ops.convolution import DIRECTIONS, reference
from resnet_jax.ops.grouped import block_diagonal, merged_groups
from tests.models.reference import convolve

ROOT = pathlib.Path(__file__).resolve().parents[2]

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
    y = jax.eval_shape(lambda x, kernel: reference(x, kernel, window), x, kernel)
    dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(dtype)
    program = PROGRAMS[name]
    return (
        program("forward", x, kernel, window, None),
        program("input_gradient", dy, kernel, window, x.shape[1:3]),
        program("kernel_gradient", x, dy, window, kernel.shape[:2]),
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
    dense = functools.partial(reference, window=window)
    return jax.jit(value_and_gradients, static_argnums=0)(lambda x, kernel: dense(x, whole(kernel)), x, kernel)


def usable(name, shape):
    if name == "onednn" and onednn.missing():
        pytest.skip(f"no oneDNN here: {onednn.missing()}")
    if name == "folded" and (shape[-1].groups > 1 or shape[-1].dilation > 1):
        pytest.skip("only a convolution without groups and dilation is folded")
    return name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_gradients_are_those_of_a_dense_convolution_with_zeros(name, shape):
    for made, wanted in zip(results(usable(name, shape), shape), expected(shape), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_bfloat16_they_are_within_its_precision_of_float32(name):
    shape = SHAPES[1]
    for made, wanted in zip(results(usable(name, shape), shape, jnp.bfloat16), expected(shape), strict=True):
        assert made.dtype == jnp.bfloat16
        np.testing.assert_allclose(made.astype(jnp.float32), wanted, rtol=0, atol=2**-6 * np.abs(wanted).max())


def test_the_value_is_the_sum_of_the_definition():
    x, kernel = arrays(SHAPES[1])
    np.testing.assert_allclose(ops.convolve(x, kernel, SHAPES[1][-1]), convolve(x, kernel, 2, 4), atol=1e-4)


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
    traced = jax.jit(lambda x, kernel: ops.convolve(x, kernel, SHAPES[0][-1])).trace(x, kernel)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_that_is_compiled_for_decides_and_not_the_one_that_compiles():
    assert ("resnet_jax_onednn_forward" in program_for("cpu")) == (onednn.missing() is None)
    assert "feature_group_count = 1 " in program_for("tpu")
    assert "feature_group_count = 1 " in program_for("cuda")


@pytest.mark.parametrize("size", [224, 225])
def test_a_folded_stem_is_four_by_four_on_sixteen_channels_and_not_strided(size):
    images, kernel = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32), noise(7, 7, 3, 64)
    folded = functools.partial(grouped.folded, window=Window(stride=2))
    (equation,) = [e for e in jax.make_jaxpr(folded)(images, kernel).eqns if e.primitive.name == "conv_general_dilated"]
    assert equation.invars[1].aval.shape == (4, 4, 16, 64)
    assert equation.params["window_strides"] == (1, 1)
    assert choose("gpu", "forward", 3, Window(stride=2)) == "folded"
    assert (
        choose("gpu", "forward", 64, Window(stride=2)) == choose("tpu", "forward", 3, Window(stride=2)) == "reference"
    )


def test_in_float64_nothing_is_rounded_to_float32():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, kernel = random.normal(size=(1, 5, 5, 4)), random.normal(size=(3, 3, 2, 4))
        made = ops.convolve(jnp.asarray(x), jnp.asarray(kernel), Window(groups=2))
        np.testing.assert_allclose(made, convolve(x, kernel, 1, 2), rtol=0, atol=1e-12)


def test_the_reference_is_one_convolution_of_jax():
    x, kernel = arrays(SHAPES[0])
    program = jax.make_jaxpr(lambda x, kernel: ops.convolve(x, kernel, SHAPES[0][-1], "reference"))(x, kernel)
    assert [equation.primitive.name for equation in program.eqns] == ["conv_general_dilated"]


def test_a_batch_of_networks_is_convolved_as_each_of_them():
    conv = Conv(8, 3, groups=2)
    x, kernels = noise(3, 2, 6, 6, 4), noise(3, 3, 3, 2, 8, seed=1)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(conv.apply({"params": {"kernel": kernel}}, x)))

    together = jax.vmap(jax.grad(loss))(kernels, x)
    for kernel, images, gradient in zip(kernels, x, together, strict=True):
        np.testing.assert_allclose(gradient, jax.grad(loss)(kernel, images), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda", "rocm", "another"])
def test_whatever_is_chosen_exists(platform):
    for direction in DIRECTIONS:
        for groups in (1, 32):
            assert choose(platform, direction, 1024, Window(groups=groups)) in PROGRAMS


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.platform} {row.program}")
def test_each_choice_names_a_record_that_is_there(row):
    (record,) = re.findall(r"results/\S+\.json", row.because)
    assert (ROOT / record).is_file()


def milliseconds(record):
    rows = json.loads((ROOT / "results" / "convolutions" / record).read_text())["rows"]
    return [(row["shape"], row["direction"], row["milliseconds"]) for row in rows]


def test_the_reasons_of_the_table_are_those_of_its_records():
    """In the records JAX's own program is called "xla"."""
    reasons = {(row.platform, row.program): row.because for row in TABLE}
    cpu, gpu = milliseconds("cpu.json"), milliseconds("h200.json")
    others = [min(time for name, time in row.items() if name != "onednn") / row["onednn"] for *_, row in cpu]
    assert f"{min(others):.1f} to {max(others):.1f} times as fast" in reasons["cpu", "onednn"]
    four = [row["xla"] / row["dense"] for shape, _, row in cpu if "x128->128 3x3/1 groups 32" in shape and "xla" in row]
    assert {round(ratio) for ratio in four} == {3} and "3 times as long" in reasons["cpu", "dense"]
    kernel = max(row["xla"] / row["shifted"] for _, direction, row in cpu if "kernel" in direction and "xla" in row)
    assert 150 <= kernel < 160 and "up to 150 times as long" in reasons["cpu", "shifted"]
    stem = [row["folded"] / row["xla"] for *_, row in gpu if "folded" in row]
    assert max(stem) < 0.55 and "about half the time" in reasons["gpu", "folded"]
    strided = [
        row["dense"] / row["xla"] for shape, way, row in gpu if "3x3/2 groups" in shape and way == "input_gradient"
    ]
    assert min(strided) < 0.5 and max(strided) < 1 and "up to half" in reasons["gpu", "dense"]
    merged = max(row["xla"] / row["merged128"] for *_, row in gpu if "merged128" in row)
    assert f"up to {merged:.1f} times" in reasons["gpu", "merged_128"]


TRANSFORMATIONS = {
    "jvp": lambda f, x, dx: jax.jvp(f, (x,), (dx,))[1],
    "gradient": lambda f, x, dx: jax.grad(f)(x),
    "forward over reverse": lambda f, x, dx: jax.jvp(jax.grad(f), (x,), (dx,))[1],
    "reverse over forward": lambda f, x, dx: jax.grad(lambda x: jax.jvp(f, (x,), (dx,))[1])(x),
    "reverse over reverse": lambda f, x, dx: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), dx))(x),
    "linearize": lambda f, x, dx: jax.linearize(f, x)[1](dx),
    "checkpoint": lambda f, x, dx: jax.grad(jax.checkpoint(f))(x),
    "vmap of images": lambda f, x, dx: jax.vmap(f)(jnp.stack([x, dx])),
    "gradient of vmap": lambda f, x, dx: jax.grad(lambda both: jax.vmap(f)(both).sum())(jnp.stack([x, dx])),
}


@pytest.mark.parametrize("by", ["images", "kernel", "both"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_the_fast_convolution_transforms_as_the_reference_does(name, by):
    """By images, by kernel and by both, where each gradient is differentiated by either of its operands."""
    window = Window(stride=2, groups=2)
    x, kernel = noise(2, 7, 7, 4), noise(3, 3, 2, 6, seed=1)
    at = {"images": x.ravel(), "kernel": kernel.ravel(), "both": jnp.concatenate([x.ravel(), kernel.ravel()])}[by]

    def function(implementation):
        def of(values):
            images = values[: x.size].reshape(x.shape) if by != "kernel" else x
            weights = values[-kernel.size :].reshape(kernel.shape) if by != "images" else kernel
            return jnp.sum(jnp.sin(ops.convolve(images, weights, window, implementation)) ** 3)

        return of

    transform, along = TRANSFORMATIONS[name], noise(*at.shape, seed=2)
    fast, expected = (transform(function(implementation), at, along) for implementation in ("fast", "reference"))
    np.testing.assert_allclose(fast, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_kernel_that_does_not_fit_is_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="does not fit maps"):
        ops.convolve(noise(1, 4, 4, 3), noise(3, 3, 4, 8), Window())
