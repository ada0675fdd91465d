import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax import ops
from resnet_jax.errors import ConfigError
from resnet_jax.models.resnet import ResNet
from tests.models.reference import convolve, normalize, relu, scrambled

TINY = dict(stage_sizes=(1, 1), stage_widths=(8, 16), stem="cifar", stem_width=8, num_classes=5)


def tiny(**fields):
    return ResNet(**TINY | fields)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(model, images):
    return scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), images)))


def initialized(model, images):
    """Initialize with the generator that XLA compiles fastest."""
    return model.init(jax.random.key(0, impl="unsafe_rbg"), images)


def dtypes(tree):
    return {array.dtype for array in jax.tree.leaves(tree)}


# Types


@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
def test_half_precision_keeps_parameters_statistics_and_logits_in_float32(activation_order):
    images = noise(4, 8, 8, 3)
    model = tiny(dtype=jnp.bfloat16, activation_order=activation_order)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    assert dtypes(variables) == {jnp.dtype("float32")}
    variables = filled(model, images)
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert logits.dtype == jnp.float32
    assert dtypes(updates) == {jnp.dtype("float32")}
    maps = model.apply(variables, images, method="features")
    assert dtypes(maps) == {jnp.dtype("bfloat16")}


def test_half_precision_gives_nearly_the_logits_of_full_precision():
    images = noise(4, 8, 8, 3)
    variables = filled(tiny(), images)
    full, half = (tiny(dtype=dtype).apply(variables, images) for dtype in (jnp.float32, jnp.bfloat16))
    assert 0 < np.abs(full - half).max() < 0.03 * np.abs(full).max()


# Feature maps


@pytest.mark.parametrize(
    ("fields", "size", "shapes"),
    [
        # The stem is kept before its max-pool: 33 to 17, pooled to 9.
        (dict(stem="imagenet"), 33, dict(stem=(17, 8), stage1=(9, 8), stage2=(5, 16))),
        (dict(stem="imagenet"), 32, dict(stem=(16, 8), stage1=(8, 8), stage2=(4, 16))),
        (
            dict(stem="imagenet", activation_order="preactivation"),
            32,
            dict(stem=(16, 8), stage1=(8, 8), stage2=(4, 16)),
        ),
        (dict(stem="deep", stem_hidden=(4, 6)), 33, dict(stem=(17, 8), stage1=(9, 8), stage2=(5, 16))),
        (dict(block="bottleneck"), 9, dict(stem=(9, 8), stage1=(9, 32), stage2=(5, 64))),
        (dict(shortcut="A"), 8, dict(stem=(8, 8), stage1=(8, 8), stage2=(4, 16))),
        (
            dict(stage_sizes=(1, 2, 1), stage_widths=(8, 8, 12)),
            8,
            dict(stem=(8, 8), stage1=(8, 8), stage2=(4, 8), stage3=(2, 12)),
        ),
    ],
)
def test_features_have_the_names_channels_and_strides_of_their_stages(fields, size, shapes):
    model = tiny(**fields)
    images = jnp.zeros((2, size, size, 3))
    maps, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, method="features"))
    assert {name: (2, size, size, channels) for name, (size, channels) in shapes.items()} == {
        name: array.shape for name, array in maps.items()
    }


def test_the_stem_is_a_convolution_normalized_and_rectified():
    images = noise(2, 7, 7, 3)
    model = tiny()
    variables = filled(model, images)
    params, statistics = variables["params"], variables["batch_stats"]
    stem = model.apply(variables, images, method="features")["stem"]
    expected = normalize(convolve(images, params["stem_conv"]["kernel"]), params["stem_bn"], statistics["stem_bn"])
    np.testing.assert_allclose(stem, relu(expected), atol=1e-4)


def test_the_imagenet_stem_is_7x7_with_stride_2():
    images = noise(1, 11, 11, 3)
    model = tiny(stem="imagenet", activation_order="preactivation")
    variables = filled(model, images)
    stem = model.apply(variables, images, method="features")["stem"]
    kernel = variables["params"]["stem_conv"]["kernel"]
    assert kernel.shape == (7, 7, 3, 8)
    np.testing.assert_allclose(stem, convolve(images, kernel, 2), atol=1e-4)


@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
def test_the_deep_stem_is_three_3x3_of_which_the_first_strides(activation_order):
    """He et al. 2018, figure 2b. Under pre-activation the last one is left as it is, like the 7x7."""
    images = noise(1, 11, 11, 3)
    model = tiny(stem="deep", stem_hidden=(4, 6), activation_order=activation_order)
    variables = filled(model, images)
    params, statistics = variables["params"], variables["batch_stats"]
    x, deep = images, params["stem_conv"]
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = convolve(x, deep[f"conv{i}"]["kernel"], stride)
        if i < 3:
            x = relu(normalize(x, deep[f"bn{i}"], statistics["stem_conv"][f"bn{i}"]))
    if activation_order == "original":
        x = relu(normalize(x, params["stem_bn"], statistics["stem_bn"]))
    assert [deep[f"conv{i}"]["kernel"].shape[2:] for i in (1, 2, 3)] == [(3, 4), (4, 6), (6, 8)]
    np.testing.assert_allclose(model.apply(variables, images, method="features")["stem"], x, atol=1e-4)


def test_padding_of_the_max_pool_is_never_the_maximum():
    """The stage is silenced, so that the only stage is the pooled stem, which is negative everywhere."""
    images = jnp.ones((1, 16, 16, 3))
    model = tiny(stem="imagenet", activation_order="preactivation", stage_sizes=(1, 1))
    variables = jax.tree.map(np.zeros_like, filled(model, images))
    variables["params"]["stem_conv"]["kernel"] -= 1
    maps = model.apply(variables, images, method="features")
    stem, stage = np.asarray(maps["stem"])[0, :, :, 0], np.asarray(maps["stage1"])[0, :, :, 0]
    padded = np.pad(stem, 1, constant_values=-np.inf)
    expected = [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(4)] for i in range(4)]
    assert stem.max() < 0
    np.testing.assert_array_equal(stage, expected)


def test_preactivation_has_no_norm_in_the_stem_and_one_at_the_end():
    images = noise(2, 8, 8, 3)
    model = tiny(activation_order="preactivation")
    variables = filled(model, images)
    assert "stem_bn" not in variables["params"]
    maps = model.apply(variables, images, method="features")
    assert maps["stem"].min() < 0 and maps["stage1"].min() < 0
    assert maps["stage2"].min() == 0
    # The last BatchNorm is what stands between the last block and the maps.
    silent = {
        **variables,
        "params": variables["params"] | {"last_bn": {"scale": np.zeros(16), "bias": np.arange(16.0)}},
    }
    silent = jax.tree.map(jnp.float32, silent)
    maps = model.apply(silent, images, method="features")
    np.testing.assert_array_equal(maps["stage2"], np.broadcast_to(np.arange(16.0), maps["stage2"].shape))


# Head


def test_without_classes_the_pooled_features_are_returned():
    images = noise(2, 8, 8, 3)
    model = tiny(num_classes=0, dtype=jnp.bfloat16)
    variables = filled(model, images)
    pooled = model.apply(variables, images)
    last = np.asarray(model.apply(variables, images, method="features")["stage2"], np.float64)
    assert "head" not in variables["params"]
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, last.mean(axis=(1, 2)), rtol=1e-5)


def test_logits_are_an_affine_map_of_the_pooled_features():
    images = noise(2, 8, 8, 3)
    variables = filled(tiny(), images)
    head = variables["params"]["head"]
    body = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
    pooled = np.asarray(tiny(num_classes=0).apply(body, images), np.float64)
    np.testing.assert_allclose(tiny().apply(variables, images), pooled @ head["kernel"] + head["bias"], atol=1e-5)


def test_the_head_starts_uniform_within_one_over_the_root_of_its_inputs():
    head = initialized(tiny(num_classes=4000), jnp.zeros((1, 4, 4, 3)))["params"]["head"]
    bound = 1 / np.sqrt(16)
    assert np.abs(head["kernel"]).max() == pytest.approx(bound, rel=0.01)
    assert head["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    np.testing.assert_array_equal(head["bias"], np.zeros(4000))


# BatchNorm


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_training_step_moves_the_statistics_by_one_minus_momentum(unbiased):
    """new = momentum * old + (1 - momentum) * batch, the variance over N - 1 values, as torch has it, or over N."""
    images = noise(4, 5, 5, 3)
    model = tiny(norm_momentum=0.7, norm_unbiased=unbiased)
    variables = filled(model, images)
    old = variables["batch_stats"]["stem_bn"]
    _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    new = updates["batch_stats"]["stem_bn"]
    x = convolve(images, variables["params"]["stem_conv"]["kernel"])
    np.testing.assert_allclose(new["mean"], 0.7 * old["mean"] + 0.3 * x.mean(axis=(0, 1, 2)), atol=1e-5)
    batch = x.var(axis=(0, 1, 2), ddof=int(unbiased))
    np.testing.assert_allclose(new["var"], 0.7 * old["var"] + 0.3 * batch, rtol=1e-5)


def test_the_variance_of_an_axis_counts_the_values_of_all_of_it():
    images = noise(4, 3, 3, 3)
    model = tiny(norm_axis="batch", norm_momentum=0.0)
    variables = filled(model, images)

    def moved(images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]["stem_bn"]["var"]

    found = jax.vmap(moved, axis_name="batch")(images.reshape(2, 2, 3, 3, 3))
    x = convolve(images, variables["params"]["stem_conv"]["kernel"])
    np.testing.assert_allclose(found, np.tile(x.var(axis=(0, 1, 2), ddof=1), (2, 1)), rtol=1e-4)


@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
def test_a_training_step_moves_every_statistic(activation_order):
    images = noise(4, 8, 8, 3)
    model = tiny(activation_order=activation_order)
    variables = filled(model, images)
    _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    old, new = (flatten_dict(tree["batch_stats"], sep="/") for tree in (variables, updates))
    assert old.keys() == new.keys()
    assert all(np.all(old[name] != new[name]) for name in old)


def test_training_normalizes_by_the_batch_and_evaluation_by_the_statistics():
    images = noise(4, 5, 5, 3)
    model = tiny()
    variables = filled(model, images)
    x = convolve(images, variables["params"]["stem_conv"]["kernel"])
    batch = {"mean": x.mean(axis=(0, 1, 2)), "var": x.var(axis=(0, 1, 2))}
    for train, statistics in ((True, batch), (False, variables["batch_stats"]["stem_bn"])):
        maps, updates = model.apply(variables, images, train=train, mutable=["batch_stats"], method="features")
        expected = relu(normalize(x, variables["params"]["stem_bn"], statistics))
        np.testing.assert_allclose(maps["stem"], expected, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_epsilon_is_that_of_every_norm():
    """With statistics and scales of zero and one, an epsilon of 3 halves what each norm lets through."""
    images = noise(2, 5, 5, 3)
    model = tiny(norm_epsilon=3.0)
    variables = filled(model, images)
    zero_one = {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}
    variables["batch_stats"]["stem_bn"] = zero_one
    variables["params"]["stem_bn"] = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    stem = model.apply(variables, images, method="features")["stem"]
    np.testing.assert_allclose(stem, relu(convolve(images, variables["params"]["stem_conv"]["kernel"])) / 2, atol=1e-4)


def test_statistics_shared_over_an_axis_are_those_of_the_whole_batch():
    images = noise(8, 6, 6, 3)
    variables = filled(tiny(), images)

    def train(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    halves = images.reshape(2, 4, 6, 6, 3)
    shared = jax.vmap(lambda x: train(tiny(norm_axis="batch"), x), axis_name="batch")
    shared = jax.jit(shared)(halves).reshape(8, 5)
    local = jnp.concatenate([train(tiny(), half) for half in halves])
    whole = train(tiny(), images)
    np.testing.assert_allclose(shared, whole, atol=1e-4)
    assert np.abs(local - whole).max() > 0.01


# Blocks in the network


def test_the_first_stage_keeps_the_resolution_and_every_other_halves_it_once():
    fields = dict(stride_in_1x1=True, shortcut="C", cardinality=2, base_width=32, avg_down=True, se_reduction=4)
    model = tiny(stage_sizes=(2, 3), block="bottleneck", **fields)
    bound = model.bind(filled(model, noise(1, 8, 8, 3)))
    blocks = [getattr(bound, name) for names in bound.stages for name in names]
    assert [block.name for block in blocks] == [f"stage1_block{i}" for i in (1, 2)] + [
        f"stage2_block{i}" for i in (1, 2, 3)
    ]
    assert [block.stride for block in blocks] == [1, 1, 2, 1, 1]
    assert [block.channels for block in blocks] == [8, 8, 16, 16, 16]
    for block in blocks:
        assert {field: getattr(block, field) for field in fields} == fields


def test_a_network_of_zeroed_blocks_hands_its_stem_through():
    images = noise(2, 8, 8, 3)
    model = tiny(stage_sizes=(2, 2), zero_init_last=True, shortcut="A")
    maps = model.apply(initialized(model, images), images, method="features")
    np.testing.assert_array_equal(maps["stage1"], maps["stem"])
    np.testing.assert_array_equal(maps["stage2"][..., :8], maps["stem"][:, ::2, ::2])
    np.testing.assert_array_equal(maps["stage2"][..., 8:], np.zeros((2, 4, 4, 8)))


# Stochastic depth


def test_drop_probability_grows_linearly_to_that_of_the_last_block():
    """Huang et al. 2016, equation 4: the l-th of L blocks survives with probability 1 - (l / L)(1 - p_L)."""
    bound = tiny(stage_sizes=(2, 2), stochastic_depth=0.4).bind({})
    rates = [getattr(bound, name).drop_path for names in bound.stages for name in names]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])


def test_stochastic_depth_asks_for_the_dropout_key_in_training_only():
    images = noise(2, 8, 8, 3)
    model = tiny(stochastic_depth=0.5)
    variables = filled(model, images)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        model.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(model.apply(variables, images), tiny().apply(variables, images))


def test_stochastic_depth_of_zero_trains_as_none_and_needs_no_key():
    images = noise(2, 8, 8, 3)
    variables = filled(tiny(), images)
    zero, _ = tiny(stochastic_depth=0.0).apply(variables, images, train=True, mutable=["batch_stats"])
    keyed, _ = tiny().apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(zero, keyed)


def test_stochastic_depth_follows_its_key():
    images = noise(16, 8, 8, 3)
    model = tiny(stochastic_depth=0.5)
    variables = filled(model, images)

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0])

    np.testing.assert_array_equal(logits(0), logits(0))
    assert not np.allclose(logits(0), logits(1), atol=1e-3)


@pytest.mark.parametrize("activation_order", ["bn_after_addition", "relu_before_addition", "relu_preactivation"])
def test_other_orders_of_activation_have_the_parameters_of_the_original(activation_order):
    images = jnp.zeros((1, 8, 8, 3))
    original, other = (
        jax.eval_shape(lambda model=model: model.init(jax.random.key(0), images))
        for model in (tiny(), tiny(activation_order=activation_order))
    )
    assert jax.tree.map(lambda array: array.shape, original) == jax.tree.map(lambda array: array.shape, other)


def test_one_more_relu_follows_the_last_block_of_relu_only_preactivation_and_no_other():
    images = noise(2, 8, 8, 3)
    model = tiny(activation_order="relu_preactivation", stage_sizes=(1,), stage_widths=(8,), shortcut="A")
    variables = filled(model, images)
    maps = model.apply(variables, images, method="features")
    assert np.min(maps["stem"]) == np.min(maps["stage1"]) == 0
    block = model.bind(variables).stage1_block1
    unrectified = block(maps["stem"], False)
    assert np.min(unrectified) < 0
    np.testing.assert_allclose(maps["stage1"], relu(unrectified), atol=1e-6)


def test_gates_add_a_1x1_convolution_to_each_block():
    """He et al. 2016, section 3.1: as many gates as the block has outputs. 8 * 8 + 8 and 8 * 16 + 16 values."""
    images = jnp.zeros((1, 8, 8, 3))
    sizes = [
        sum(array.size for array in jax.tree.leaves(variables["params"]))
        for variables in (
            jax.eval_shape(lambda model=model: model.init(jax.random.key(0), images))
            for model in (tiny(shortcut="A"), tiny(shortcut="A", shortcut_gate="shortcut_only", gate_bias=-6.0))
        )
    ]
    assert sizes[1] - sizes[0] == 72 + 144


def test_blur_pool_reaches_the_3x3_and_the_projection_of_blocks_that_stride(monkeypatch):
    """In ResNet-50 of ffcv-imagenet: `conv2` and `downsample.0` of the first block of stages 2 to 4."""
    seen = []
    monkeypatch.setattr(ops, "blur", lambda x: seen.append(x.shape[1:]) or x)
    net = dict(stage_sizes=(2, 2), stage_widths=(16, 32), block="bottleneck", stem="imagenet", stem_width=16)
    for fields in (dict(blur_pool=True), dict()):
        jax.eval_shape(lambda fields=fields: tiny(**net, **fields).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert seen == [(8, 8, 32), (8, 8, 64)]


# Blocks of one's own


class Halved(nn.Module):
    """A block that declares only what it needs."""

    channels: int
    stride: int = 1
    expansion = 2

    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(2 * self.channels, (3, 3), self.stride, padding=1)(x) / 2


@pytest.mark.parametrize("block", [Halved, f"{__name__}:Halved"])
def test_a_block_of_ones_own_needs_no_change_here(block):
    images = noise(2, 8, 8, 3)
    model = tiny(block=block)
    assert [feature.channels for feature in model.feature_info()] == [8, 16, 32]
    maps = model.apply(model.init(jax.random.key(0), images), images, method="features")
    assert [maps[feature.name].shape[-1] for feature in model.feature_info()] == [8, 16, 32]


@pytest.mark.parametrize("expansion", [1, 2, 4])
def test_feature_info_knows_an_overridden_expansion(expansion):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    model = tiny(block="bottleneck", expansion=expansion)
    maps = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, method="features")[0], images)
    assert {feature.name: feature.channels for feature in model.feature_info()} == {
        name: shape.shape[-1] for name, shape in maps.items()
    }


# Fields that make no network


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(block="wide"), r"no block 'wide': use one of basic, bottleneck, or your own as \"module:name\""),
        (dict(block="tests.models.test_resnet:Missing"), "has no 'Missing'"),
        (dict(block="no_such_module:Block"), "names a module that cannot be found"),
        (dict(implementation="slow"), "implementation is 'slow': use one of fast, reference"),
        (dict(stem="shallow"), r"stem is 'shallow': use one of imagenet, deep, cifar\."),
        (dict(shortcut="D"), r"shortcut is 'D': use one of A, A_both, B, C, none\."),
        (dict(stage_sizes=(1, 1, 1)), r"stage_sizes is \(1, 1, 1\) and stage_widths \(8, 16\).*one of each"),
        (dict(stage_sizes=(1, 0)), "use 1 or more"),
        (dict(stage_widths=(0, 16)), "use 1 or more"),
        (dict(stem_width=0), "use 1 or more"),
        (dict(stem="deep", stem_hidden=(8, 0)), "use 1 or more"),
        (dict(stem="imagenet", stem_hidden=(24, 32)), "stem_hidden belongs to deep stems"),
        (dict(avg_down=True, shortcut="A"), "shortcut A has none: use shortcut B or C"),
        (dict(avg_down=True, shortcut="none"), "shortcut none has none: use shortcut B or C"),
        (dict(projection_norm=False, shortcut="A"), "shortcut A has none: leave it on"),
        (dict(expansion=1), "belong to bottlenecks"),
        (dict(block="bottleneck", expansion=0), "use 1 or more"),
        (dict(se_reduction=-1), "se_reduction is -1: use 0 or more"),
        (dict(block="bottleneck", cardinality=0), "use 1 or more"),
        (dict(block="bottleneck", base_width=0), "use 1 or more"),
        (dict(cardinality=32), "belong to bottlenecks"),
        (dict(base_width=4), "belong to bottlenecks"),
        (dict(stride_in_1x1=True), "belong to bottlenecks"),
        (dict(activation_order="preactivation", zero_init_last=True), "zero_init_last needs a BatchNorm at the end"),
        (dict(activation_order="relu_before_addition", zero_init_last=True), "relu_before_addition has none there"),
        (dict(activation_order="postactivation"), r"activation_order is 'postactivation': use one of original, bn_aft"),
        (dict(shortcut_gate="open"), r"shortcut_gate is 'open': use one of empty, constant, exclusive, .*dropout\."),
        (dict(shortcut_gate="constant", shortcut="none"), "shortcut none has none: use shortcut A, B or C"),
        (dict(shortcut_gate="constant", gate_bias=-6.0), "gate_bias needs gates with parameters"),
        (dict(shortcut="A", stage_widths=(16, 8)), "shortcut A can only add channels"),
        (dict(shortcut="A_both", stage_widths=(16, 8)), "shortcut A can only add channels"),
        (dict(stochastic_depth=1.0), r"stochastic_depth is 1\.0: use a probability below 1"),
        (dict(stochastic_depth=-0.1), r"stochastic_depth is -0\.1: use a probability below 1"),
    ],
)
def test_fields_that_make_no_network_are_refused_at_first_use(fields, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: tiny(**fields).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


@pytest.mark.parametrize(
    "fields",
    [
        dict(stochastic_depth=0.99),
        dict(stage_widths=(16, 8)),
        dict(stem="deep", stem_hidden=()),
        dict(activation_order="preactivation", stem="deep", avg_down=True, shortcut="C", se_reduction=16),
        dict(stage_widths=(8, 8), shortcut="A_both"),
        dict(activation_order="relu_preactivation", zero_init_last=True, shortcut_gate="exclusive", gate_bias=-6.0),
        dict(block="bottleneck", cardinality=2, base_width=8, stride_in_1x1=True, shortcut="A"),
    ],
)
def test_fields_that_are_unusual_but_sound_make_a_network(fields):
    shapes = jax.eval_shape(lambda: tiny(**fields).init_with_output(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    assert shapes[0].shape == (1, 5)
