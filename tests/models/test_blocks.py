import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.models.blocks import (
    SHORTCUTS,
    BasicBlock,
    Block,
    Bottleneck,
    PreActBlock,
    PreActBottleneck,
    average,
    pad_channels,
)
from resnet_jax.models.identity import SHORTCUT_GATES, IdentityBasicBlock, IdentityBottleneck
from resnet_jax.models.layers import SqueezeExcite, drop_path
from tests.models.reference import convolve, normalize, relu, scrambled

BLOCKS = {
    (BasicBlock, "original"): BasicBlock,
    (BasicBlock, "preactivation"): PreActBlock,
    (Bottleneck, "original"): Bottleneck,
    (Bottleneck, "preactivation"): PreActBottleneck,
}
IDENTITY = {BasicBlock: IdentityBasicBlock, Bottleneck: IdentityBottleneck}


def blocks(kind, activation_order, *args, **fields):
    """The blocks that have an order: the standard one, if there is one, and that of the ablations."""
    standard = BLOCKS.get((kind, activation_order))
    return [
        *([standard(*args, **fields)] if standard else []),
        IDENTITY[kind](*args, activation_order=activation_order, **fields),
    ]


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def initialized(block, x):
    """Initialize with the generator that XLA compiles fastest."""
    return block.init(jax.random.key(0, impl="unsafe_rbg"), x, False)


def with_variables(block, x):
    return block, scrambled(jax.eval_shape(lambda: block.init(jax.random.key(0), x, False)))


def gated(y, params):
    """Hu et al. 2018, equations 2 to 4."""
    first, second = (params[name]["kernel"][0, 0] for name in ("fc1", "fc2"))
    logits = relu(y.mean(axis=(1, 2)) @ first + params["fc1"]["bias"]) @ second + params["fc2"]["bias"]
    return y / (1 + np.exp(-logits))[:, None, None]


def averaged(x, size):
    """Means of squares; a slice ends at the border."""
    starts = range(0, x.shape[1], size)
    squares = [[x[:, i : i + size, j : j + size].mean(axis=(1, 2)) for j in starts] for i in starts]
    return np.moveaxis(np.array(squares), 2, 0)


def expected(block, variables, x):
    """The block's equation: He et al. 2015, equations 1 and 2, or He et al. 2016, figure 4; and its figure 2."""
    order = "preactivation" if isinstance(block, PreActBlock | PreActBottleneck) else "original"
    order, gate = getattr(block, "activation_order", order), getattr(block, "shortcut_gate", "")
    params, statistics = variables["params"], variables["batch_stats"]
    strides = {"bn1": block.stride} if block.expansion == 1 or block.stride_in_1x1 else {"bn2": block.stride}
    out_channels = block.channels * block.expansion
    projection = "averaged_shortcut" if block.avg_down else "shortcut"
    projects = f"{projection}_conv" in params

    def bn(name, y):
        return normalize(y, params[name], statistics[name])

    y = shortcut = np.asarray(x, np.float64)
    count = 2 if block.expansion == 1 else 3
    for i in range(1, count + 1):
        groups = block.cardinality if (block.expansion, i) == (4, 2) else 1
        y = bn(f"bn{i}", y) if order == "preactivation" else y
        y = relu(y) if order in ("preactivation", "relu_preactivation") else y
        shortcut = y if i == 1 and projects and order in ("preactivation", "relu_preactivation") else shortcut
        y = convolve(y, params[f"conv{i}"]["kernel"], strides.get(f"bn{i}", 1), groups)
        if order == "relu_preactivation" or (order != "preactivation" and i < count):
            y = bn(f"bn{i}", y)
        y = relu(y) if order in ("original", "bn_after_addition", "relu_before_addition") and i < count else y
    if order == "original":
        y = bn(f"bn{count}", y)
    elif order == "relu_before_addition":
        y = relu(bn(f"bn{count}", y))
    y = gated(y, params["se"]) if block.se_reduction else y
    if projects:
        shortcut = averaged(shortcut, block.stride) if block.avg_down else shortcut[:, :: block.stride, :: block.stride]
        shortcut = convolve(shortcut, params[f"{projection}_conv"]["kernel"])
        shortcut = shortcut if order == "preactivation" else bn(f"{projection}_bn", shortcut)
    elif block.shortcut != "none":
        added = out_channels - x.shape[-1]
        before = {"A": 0, "A_both": added // 2}.get(block.shortcut, 0)
        shortcut = shortcut[:, :: block.stride, :: block.stride]
        shortcut = np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (before, added - before)))
    if gate in ("exclusive", "shortcut_only"):
        gates = convolve(x, params["gate"]["kernel"], block.stride) + params["gate"]["bias"]
        gates = 1 / (1 + np.exp(-gates))
        y = gates * y if gate == "exclusive" else y
        shortcut = (1 - gates) * shortcut
    y = y / 2 if gate == "constant" else y
    shortcut = shortcut / 2 if gate in ("constant", "dropout") else shortcut
    y = y if block.shortcut == "none" else y + shortcut
    if order == "bn_after_addition":
        return relu(bn(f"bn{count}", y))
    return relu(y) if order == "original" else y


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_basic_block_computes_its_equation(shortcut, activation_order, changes):
    x = noise(2, 5, 5, 4)
    fields = dict(channels=8, stride=2) if changes else dict(channels=4)
    for block in blocks(BasicBlock, activation_order, shortcut=shortcut, **fields):
        block, variables = with_variables(block, x)
        np.testing.assert_allclose(block.apply(variables, x, False), expected(block, variables, x), atol=1e-4)


@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
@pytest.mark.parametrize("activation_order", ["bn_after_addition", "relu_before_addition", "relu_preactivation"])
def test_a_block_of_another_order_of_activation_computes_its_equation(activation_order, shortcut):
    x = noise(2, 5, 5, 4)
    kind = IdentityBottleneck if shortcut == "B" else IdentityBasicBlock
    block = kind(8, 2, shortcut, activation_order=activation_order)
    block, variables = with_variables(block, x)
    np.testing.assert_allclose(block.apply(variables, x, False), expected(block, variables, x), atol=1e-4)


@pytest.mark.parametrize("fields", [dict(), dict(stride=2, shortcut="A"), dict(activation_order="preactivation")])
@pytest.mark.parametrize("shortcut_gate", SHORTCUT_GATES)
def test_a_block_with_a_scaled_shortcut_computes_its_equation(shortcut_gate, fields):
    x = noise(2, 5, 5, 4)
    channels = 8 if fields.get("stride") else 4
    block = IdentityBasicBlock(channels, shortcut_gate=shortcut_gate, **fields)
    block, variables = with_variables(block, x)
    np.testing.assert_allclose(block.apply(variables, x, False), expected(block, variables, x), atol=1e-4)
    assert ("gate" in variables["params"]) == (shortcut_gate in ("exclusive", "shortcut_only"))


def test_gates_start_at_the_bias_that_is_asked_for():
    x = noise(1, 3, 3, 4)
    block = IdentityBasicBlock(4, shortcut_gate="exclusive", gate_bias=-6.0)
    params = initialized(block, x)["params"]["gate"]
    np.testing.assert_array_equal(params["bias"], np.full(4, -6.0, np.float32))
    assert params["kernel"].shape == (1, 1, 4, 4)


def test_dropout_on_the_shortcut_zeroes_half_of_its_values_in_training():
    x = 1 + jnp.abs(noise(8, 16, 16, 4))
    block, variables = with_variables(IdentityBasicBlock(4, shortcut_gate="dropout"), x)
    for name in ("bn1", "bn2"):  # a branch of zeros
        variables["params"][name] = jax.tree.map(np.zeros_like, variables["params"][name])
    y, _ = block.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, np.where(y == 0, 0, x))
    assert np.mean(y == 0) == pytest.approx(0.5, abs=0.025)  # four standard deviations of 8,192 values


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
def test_a_grouped_bottleneck_block_computes_its_equation(activation_order, stride_in_1x1):
    x = noise(2, 5, 5, 4)
    fields = dict(channels=8, stride=2, cardinality=2, base_width=16, stride_in_1x1=stride_in_1x1)
    for block in blocks(Bottleneck, activation_order, **fields):
        block, variables = with_variables(block, x)
        np.testing.assert_allclose(block.apply(variables, x, False), expected(block, variables, x), atol=1e-4)


@pytest.mark.parametrize("fields", [dict(avg_down=True), dict(se_reduction=16), dict(avg_down=True, se_reduction=16)])
@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_block_with_averages_and_gates_computes_its_equation(kind, stride, activation_order, fields):
    x = noise(2, 5, 5, 4)
    for block in blocks(kind, activation_order, 8, stride, **fields):
        block, variables = with_variables(block, x)
        np.testing.assert_allclose(block.apply(variables, x, False), expected(block, variables, x), atol=1e-4)


def test_shortcut_a_puts_the_zero_channels_after():
    x = jnp.arange(1.0, 13.0).reshape(1, 2, 3, 2)
    y = pad_channels(x, 5, 2, both_sides=False)
    np.testing.assert_array_equal(y, [[[[1, 2, 0, 0, 0], [5, 6, 0, 0, 0]]]])


def test_shortcut_a_both_puts_half_of_the_zero_channels_before():
    x = jnp.arange(1.0, 13.0).reshape(1, 2, 3, 2)
    y = pad_channels(x, 6, 2, both_sides=True)
    np.testing.assert_array_equal(y, [[[[0, 0, 1, 2, 0, 0], [0, 0, 5, 6, 0, 0]]]])


def test_squares_that_the_border_cuts_average_what_is_left_of_them():
    x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(average(x, 2)[0, :, :, 0], [[3, 4.5], [7.5, 9]])
    np.testing.assert_array_equal(average(x[:, :2, :2], 2)[0, :, :, 0], [[3]])
    np.testing.assert_array_equal(average(x, 1), x)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(256, 16, 16), (64, 16, 8), (2048, 16, 128), (320, 16, 24), (304, 16, 16), (256, 4, 64), (8, 16, 8)],
)
def test_the_hidden_layer_of_squeeze_and_excitation_is_rounded_to_eights(channels, reduction, hidden):
    """As timm's `make_divisible(channels / reduction, 8, round_limit=0)` gives them."""
    x = jnp.zeros((1, 1, 1, channels))
    params = jax.eval_shape(lambda: SqueezeExcite(reduction).init(jax.random.key(0), x))["params"]
    assert params["fc1"]["kernel"].shape == (1, 1, channels, hidden)
    assert params["fc2"]["kernel"].shape == (1, 1, hidden, channels)


def projections(shortcut, kind=BasicBlock, **fields):
    block = kind(shortcut=shortcut, **fields)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)), False))["params"]
    return {name for name in params if name.startswith("shortcut")}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_only_shortcut_c_projects_where_the_shape_stays(shortcut):
    assert projections(shortcut, channels=8) == ({"shortcut_conv", "shortcut_bn"} if shortcut == "C" else set())


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("fields", [dict(channels=8, stride=2), dict(channels=16)])
def test_shortcuts_b_and_c_project_where_stride_or_channels_change(shortcut, fields):
    assert projections(shortcut, **fields) == ({"shortcut_conv", "shortcut_bn"} if shortcut in "BC" else set())


def test_a_projection_under_preactivation_has_no_batchnorm():
    assert projections("B", PreActBlock, channels=16) == {"shortcut_conv"}


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck, PreActBlock, PreActBottleneck])
def test_a_plain_block_has_no_identity_path(block):
    x = noise(2, 4, 4, 8)
    block, variables = with_variables(block(8 // block.expansion, 1, "none"), x)
    silent = {**variables, "params": jax.tree.map(np.zeros_like, variables["params"])}
    np.testing.assert_array_equal(block.apply(silent, x, False), np.zeros_like(x))
    assert np.any(block.apply(variables, x, False) != 0)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("train", [False, True])
def test_with_a_zero_scale_at_the_end_a_block_begins_as_its_rectified_shortcut(block, train):
    x = noise(2, 5, 5, 8)
    same = block(8 // block.expansion, zero_init_last=True)
    y, _ = same.apply(initialized(same, x), x, train, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, relu(x))

    wider = block(16 // block.expansion, 2, "A", zero_init_last=True)
    y, _ = wider.apply(initialized(wider, x), x, train, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, relu(np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 8)))))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("zero_init_last", [False, True])
def test_every_scale_but_the_zeroed_last_starts_at_one(block, zero_init_last):
    x = noise(1, 4, 4, 4)
    params = initialized(block(8, zero_init_last=zero_init_last), x)["params"]
    starts = {name: np.unique(params[name]["scale"]).tolist() for name in params if "bn" in name}
    last = max(name for name in starts if name.startswith("bn"))
    assert starts.pop(last) == [0 if zero_init_last else 1]
    assert list(starts.values()) == [[1]] * len(starts)


def test_a_preactivated_block_passes_its_input_on_unrectified():
    x = -jnp.abs(noise(2, 4, 4, 4))
    block, variables = with_variables(PreActBlock(4), x)
    variables["params"]["conv2"]["kernel"] = np.zeros((3, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(block.apply(variables, x, False), x)


@pytest.mark.parametrize(("stride_in_1x1", "sizes"), [(True, [4, 4, 4]), (False, [8, 4, 4])])
def test_the_stride_is_in_the_1x1_of_v1_and_in_the_3x3_of_v1_5(stride_in_1x1, sizes):
    x = noise(2, 8, 8, 4)
    block, variables = with_variables(Bottleneck(2, 2, stride_in_1x1=stride_in_1x1), x)
    _, captured = block.apply(variables, x, False, capture_intermediates=True, mutable=["intermediates"])
    maps = captured["intermediates"]
    assert [maps[f"conv{i}"]["__call__"][0].shape[1] for i in (1, 2, 3)] == sizes


def test_v1_and_v1_5_have_the_same_weights_and_other_values():
    x = noise(2, 8, 8, 4)
    block, variables = with_variables(Bottleneck(2, 2), x)
    first = Bottleneck(2, 2, stride_in_1x1=True)
    y, other = block.apply(variables, x, False), first.apply(variables, x, False)
    assert y.shape == other.shape
    assert not np.allclose(y, other, atol=0.01)


@pytest.mark.parametrize(
    ("channels", "cardinality", "base_width", "kernel"),
    [  # ResNeXt's table 1; its section 5.3 for 8x64d; wide_resnet50_2; a width that is rounded down
        (64, 1, 64, (3, 3, 64, 64)),
        (64, 32, 4, (3, 3, 4, 128)),
        (512, 32, 4, (3, 3, 32, 1024)),
        (256, 8, 64, (3, 3, 256, 2048)),
        (64, 1, 128, (3, 3, 128, 128)),
        (72, 3, 10, (3, 3, 11, 33)),
    ],
)
def test_the_3x3_is_as_wide_as_cardinality_and_base_width_say(channels, cardinality, base_width, kernel):
    block = Bottleneck(channels, cardinality=cardinality, base_width=base_width)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)), False))["params"]
    assert params["conv2"]["kernel"].shape == kernel
    assert params["conv1"]["kernel"].shape == (1, 1, 16, kernel[3])
    assert params["conv3"]["kernel"].shape == (1, 1, kernel[3], 4 * channels)


def test_drop_path_zeroes_whole_examples_and_scales_the_others():
    x = noise(4000, 2, 1, 3)
    y = np.asarray(drop_path(x, 0.25, jax.random.key(0)))
    kept = np.any(y != 0, axis=(1, 2, 3))
    np.testing.assert_allclose(y, np.where(kept[:, None, None, None], x / 0.75, 0), rtol=1e-6)
    assert kept.mean() == pytest.approx(0.75, abs=0.03)  # four standard deviations


def test_drop_path_keeps_the_expected_value():
    x = jnp.full((20000, 1, 1, 1), 3.0)
    assert np.mean(drop_path(x, 0.4, jax.random.key(1))) == pytest.approx(3.0, rel=0.025)  # four standard deviations


def test_drop_path_keeps_the_type():
    assert drop_path(jnp.ones((2, 1, 1, 1), jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


def test_a_block_whose_branch_is_dropped_is_its_rectified_shortcut():
    x = noise(64, 3, 3, 4)
    block, variables = with_variables(BasicBlock(4, drop_path=0.5), x)

    def output(block):
        rngs = {"dropout": jax.random.key(0)}
        return np.asarray(block.apply(variables, x, True, mutable=["batch_stats"], rngs=rngs)[0])

    y = output(block)
    dropped = np.all(y == relu(x), axis=(1, 2, 3))
    assert 16 < dropped.sum() < 48
    # The others get twice their branch: relu(x + 2 branch), where the block without drops gives relu(x + branch).
    whole = output(block.clone(drop_path=0.0))
    positive = (whole > 0) & (y > 0) & ~dropped[:, None, None, None]
    np.testing.assert_allclose((y - x)[positive], 2 * (whole - x)[positive], atol=1e-4)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck, PreActBlock])
def test_a_shortcut_that_does_not_exist_is_refused(block):
    with pytest.raises(ConfigError, match="shortcut is 'Z': use one of A, A_both, B, C, none"):
        block(4, shortcut="Z").init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), False)


def test_the_base_class_says_which_blocks_to_use():
    with pytest.raises(NotImplementedError, match="BasicBlock or Bottleneck"):
        Block(4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), False)
