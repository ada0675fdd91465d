import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax import create_model, list_models, runner
from resnet_jax.errors import ConfigError
from resnet_jax.models.densenet import DenseNet, check
from tests.models.reference import convolve, normalize, relu, scrambled
from tests.models.test_registry import count, shapes

TINY = dict(block_sizes=(2, 1), growth_rate=4, stem="cifar", stem_width=6, num_classes=5)
NAMES = list_models("*densenet*")


def tiny(**fields):
    return DenseNet(**TINY | fields)


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def filled(model, images):
    return scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), images)))


# Published costs, names and shapes


@pytest.mark.parametrize(("name", "millions"), [("bc100_12", 0.8), ("bc250_24", 15.3), ("bc190_40", 25.6)])
def test_a_cifar_network_has_as_many_parameters_as_its_paper_says(name, millions):
    """Huang et al. 2017, table 2."""
    assert round(count(f"cifar_densenet_{name}") / 1e6, 1) == millions


def test_densenet_bc_100_12_has_the_parameters_that_are_known_to_the_last_one():
    assert count("cifar_densenet_bc100_12") == 769_162


@pytest.mark.parametrize(("depth", "growth_rate", "millions"), [(40, 12, 1.0), (100, 12, 7.0), (100, 24, 27.2)])
def test_overrides_make_the_plain_densenets_of_the_paper(depth, growth_rate, millions):
    """Huang et al. 2017, table 2: 3n + 4 layers, 16 channels in the stem, neither bottleneck nor compression."""
    plain = dict(block_sizes=((depth - 4) // 3,) * 3, growth_rate=growth_rate, stem_width=16, bottleneck=0)
    assert count("cifar_densenet_bc100_12", compression=1.0, **plain) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_has_as_many_layers_as_its_name_says(name):
    """Huang et al. 2017, table 1: the convolutions and the linear layer."""
    depth = int(name.removeprefix("cifar_").removeprefix("densenet").removeprefix("_bc").partition("_")[0])
    assert sum(path.endswith("kernel") for path in flatten_dict(shapes(name)["params"], sep="/")) == depth


# The definitions


def layer(params, statistics, x, i):
    return convolve(relu(normalize(x, params[f"bn{i}"], statistics[f"bn{i}"])), params[f"conv{i}"]["kernel"])


@pytest.mark.parametrize("bottleneck", [0, 2])
def test_a_stage_keeps_what_it_reads_and_adds_what_its_layers_compute(bottleneck):
    """Huang et al. 2017, equation 2: the l-th layer reads the maps of all before it."""
    model, x = tiny(block_sizes=(2,), bottleneck=bottleneck), noise(2, 5, 5, 3)
    variables = filled(model, x)
    params, statistics = variables["params"], variables["batch_stats"]
    maps = convolve(x, params["stem_conv"]["kernel"])
    for name in ("block1_layer1", "block1_layer2"):
        y = layer(params[name], statistics[name], maps, 1)
        if bottleneck:
            assert y.shape[-1] == 8
            y = layer(params[name], statistics[name], y, 2)
        maps = np.concatenate([maps, y], axis=-1)
    expected = relu(normalize(maps, params["last_bn"], statistics["last_bn"]))
    stage = model.apply(variables, x, method="features")["stage1"]
    np.testing.assert_allclose(stage, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("fields", "size", "expected"),
    [
        (dict(), 9, dict(stem=(9, 6), stage1=(9, 14), stage2=(4, 11))),
        (dict(compression=1.0), 8, dict(stem=(8, 6), stage1=(8, 14), stage2=(4, 18))),
        (dict(compression=0.4), 8, dict(stem=(8, 6), stage1=(8, 14), stage2=(4, 9))),  # floor(5.6) + 4
        # The stem is kept before its max-pool: 33 to 17, pooled to 9.
        (dict(stem="imagenet"), 33, dict(stem=(17, 6), stage1=(9, 14), stage2=(4, 11))),
    ],
)
def test_features_have_the_names_channels_and_strides_of_their_stages(fields, size, expected):
    model = tiny(**fields)
    x = jnp.zeros((2, size, size, 3))
    maps, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, method="features"))
    assert {name: array.shape for name, array in maps.items()} == {
        name: (2, side, side, channels) for name, (side, channels) in expected.items()
    }


def test_the_pooled_last_stage_is_what_the_head_reads():
    model, x = tiny(), noise(2, 8, 8, 3)
    variables = filled(model, x)
    stage = np.asarray(model.apply(variables, x, method="features")["stage2"], np.float64)
    assert stage.min() == 0
    head = variables["params"].pop("head")
    np.testing.assert_allclose(tiny(num_classes=0).apply(variables, x), stage.mean(axis=(1, 2)), rtol=1e-5)
    logits = model.apply({**variables, "params": variables["params"] | {"head": head}}, x)
    np.testing.assert_allclose(logits, stage.mean(axis=(1, 2)) @ head["kernel"] + head["bias"], atol=1e-5)


def test_convolutions_start_as_kaiming_normal_by_fan_in():
    """torch's kaiming_normal_: variance 2 / (kernel height * kernel width * input channels)."""
    model = tiny(growth_rate=64, stem_width=64)
    params = model.init(jax.random.key(0, impl="unsafe_rbg"), jnp.zeros((1, 4, 4, 3)))["params"]
    for kernel in (params["block1_layer1"]["conv1"]["kernel"], params["transition1"]["conv"]["kernel"]):
        assert kernel.std() == pytest.approx(np.sqrt(2 / kernel.shape[2]), rel=0.02)
    kernel = params["block1_layer1"]["conv2"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)


def test_half_precision_keeps_parameters_statistics_and_logits_in_float32():
    x = noise(4, 8, 8, 3)
    variables = filled(tiny(), x)
    half = tiny(dtype=jnp.bfloat16)
    logits, updates = half.apply(variables, x, train=True, mutable=["batch_stats"])
    assert {array.dtype for array in jax.tree.leaves((logits, updates))} == {jnp.dtype("float32")}
    maps = half.apply(variables, x, method="features")
    assert {array.dtype for array in maps.values()} == {jnp.dtype("bfloat16")}
    full = tiny().apply(variables, x)
    assert 0 < np.abs(half.apply(variables, x) - full).max() < 0.03 * np.abs(full).max()


def test_statistics_shared_over_an_axis_are_those_of_the_whole_batch():
    x = noise(8, 6, 6, 3)
    variables = filled(tiny(), x)

    def train(model, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    shared = jax.vmap(lambda x: train(tiny(norm_axis="batch"), x), axis_name="batch")
    shared = jax.jit(shared)(x.reshape(2, 4, 6, 6, 3)).reshape(8, 5)
    np.testing.assert_allclose(shared, train(tiny(), x), atol=1e-4)


# Dropout


def test_dropout_zeroes_what_the_layers_add_in_training_only_and_asks_for_its_key():
    """Before its transition a stage shows what its layer adds: some values are zero, the others doubled."""
    x, fields = noise(4, 8, 8, 3), dict(block_sizes=(1, 1), bottleneck=0)
    variables = filled(tiny(**fields), x)

    def added(rate, train=True, **rngs):
        model = tiny(dropout=rate, **fields)
        maps, _ = model.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs, method="features")
        return np.asarray(maps["stage1"][..., 6:])

    whole, dropped = added(0.0), added(0.5, dropout=jax.random.key(0))
    kept = dropped != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-5)
    np.testing.assert_array_equal(added(0.5, train=False), added(0.0, train=False))
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        added(0.5)


def test_dropout_follows_each_convolution_but_that_of_the_stem(monkeypatch):
    """Huang et al. 2017, section 4.2: here a 1x1 and a 3x3 in each of three layers, and a transition."""
    seen = []
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, y, deterministic: seen.append(self.rate) or y)
    jax.eval_shape(lambda: tiny(dropout=0.2).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    assert seen == [0.2] * 7


# Fields that make no network


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_densenet_passes_the_check_of_its_fields(name):
    check(create_model(name))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(stem="deep"), r"stem is 'deep': use one of imagenet, cifar\."),
        (dict(block_sizes=()), "block_sizes is empty"),
        (dict(block_sizes=(1, 0)), "use 1 or more"),
        (dict(growth_rate=0), "use 1 or more"),
        (dict(stem_width=0), "use 1 or more"),
        (dict(bottleneck=-1), "bottleneck is -1: use 0 or more"),
        (dict(num_classes=-1), "num_classes is -1"),
        (dict(compression=0.0), r"compression is 0\.0: use a share above 0"),
        (dict(compression=1.5), r"compression is 1\.5: use a share above 0"),
        (dict(compression=0.1), r"compression 0\.1 may leave no channel of a growth rate of 4"),
        (dict(dropout=1.0), r"dropout is 1\.0: use a probability below 1"),
        (dict(dropout=-0.1), r"dropout is -0\.1: use a probability below 1"),
    ],
)
def test_fields_that_make_no_network_are_refused_at_first_use(fields, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: tiny(**fields).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


def test_images_too_small_to_be_halved_are_refused():
    model = create_model("densenet121")
    with pytest.raises(ConfigError, match="too small: maps of 1x1 pixels cannot be halved"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))


# In a run


@pytest.fixture
def densenet_config(small_config):
    """The small run with a DenseNet of two blocks."""
    small_config.model.name = "cifar_densenet_bc100_12"
    small_config.model.overrides.stage_sizes = None
    small_config.model.overrides.stage_widths = None
    small_config.model.overrides.block_sizes = (1, 1)
    small_config.model.overrides.dropout = 0.2
    small_config.training.steps = 4
    small_config.training.epochs = 1.0
    return small_config


def test_a_densenet_trains_and_resumes(densenet_config, tmp_path):
    summary = runner.run(densenet_config, tmp_path / "run", "train")
    assert summary["steps"] == 4
    assert runner.run(densenet_config, tmp_path / "run", "train") == summary


def test_a_field_of_another_family_is_refused(densenet_config, tmp_path):
    densenet_config.model.overrides.cardinality = 32
    with pytest.raises(ConfigError, match="DenseNet has no field 'cardinality'"):
        runner.run(densenet_config, tmp_path / "run", "train")
