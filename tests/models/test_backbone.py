"""Networks as backbones: what they tell of their features, dilation, frozen BatchNorm, and the head left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax import create_model, list_models
from resnet_jax.errors import ConfigError
from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.names import from_torch, names_of, to_torch, torch_name
from tests.golden.formulas import images, tensor
from tests.golden.make_torch_backbones import GOLDEN, INFO, TIMM, TORCHVISION
from tests.models.reference import scrambled

TINY = dict(stage_sizes=(1, 1, 2, 1), stage_widths=(8, 8, 16, 16), stem_width=8, stem_hidden=(4, 4), stem="deep")
SMALL_DENSENET = DenseNet(block_sizes=(1, 1), growth_rate=4, stem_width=8, num_classes=5, stem="cifar")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.cache
def shapes_of_features(model, size):
    given = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(KEY, x, method="features")[0], given)


# What they tell


@pytest.mark.parametrize("name", list_models())
def test_the_features_have_the_channels_and_strides_that_the_network_tells(name):
    """Residual stages are cut to a block each: how many there are changes no shape, and a thousand take a minute."""
    model = create_model(name)
    info = model.feature_info()
    if isinstance(model, ResNet):
        cut = model.clone(stage_sizes=(1,) * len(model.stage_sizes), num_classes=10)
        assert cut.feature_info() == info
        model = cut
    size = 32
    maps = shapes_of_features(model, size)
    assert {feature.name for feature in info} == maps.keys()
    for feature in info:
        assert maps[feature.name].shape == (1, size // feature.stride, size // feature.stride, feature.channels)


@pytest.mark.parametrize("name", INFO)
def test_channels_and_strides_are_those_of_timm(golden, name):
    info = create_model(name).feature_info()
    channels, strides = golden[f"info/{name}"]
    assert [feature.channels for feature in info] == channels.tolist()
    assert [feature.stride for feature in info] == strides.tolist()


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("fields", [{}, dict(block="bottleneck", stride_in_1x1=True), dict(shortcut="A")])
def test_a_dilated_network_has_the_strides_it_tells_and_no_stage_beyond_its_output_stride(fields, stride):
    model = ResNet(**TINY, output_stride=stride, **fields)
    info = model.feature_info()
    assert [feature.stride for feature in info] == [2, *(min(own, stride) for own in (4, 8, 16, 32))]
    maps = shapes_of_features(model, 64)
    assert {feature.name: 64 // feature.stride for feature in info} == {name: x.shape[1] for name, x in maps.items()}


def test_feature_info_refuses_fields_that_make_no_network():
    with pytest.raises(ConfigError, match="block"):
        ResNet((1,), (8,), block="dense").feature_info()
    with pytest.raises(ConfigError, match="stem"):
        DenseNet((2,), stem="deep").feature_info()


# Dilation


def variables_of(model):
    """The variables that the formula of the reference gives."""
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 3))))
    arrays = {}
    for path, wanted in flatten_dict(shapes, sep="/").items():
        key = torch_name(path.partition("/")[2], names_of(model))
        arrays[path] = from_torch(tensor(key, to_torch(np.empty(wanted.shape), key).shape), key)
    return unflatten_dict(arrays, sep="/")


@pytest.mark.parametrize(
    ("library", "name", "stride", "size"),
    [("torchvision", *each) for each in TORCHVISION] + [("timm", *each) for each in TIMM],
)
def test_dilated_features_and_logits_are_those_of_torch(golden, library, name, stride, size):
    model = create_model(name, output_stride=stride)
    variables = variables_of(model)
    given = jnp.asarray(images(1, size).transpose(0, 2, 3, 1))

    @jax.jit
    def both(variables):
        maps = model.apply(variables, given, method="features")
        last = jnp.mean(maps["stage4"], axis=(1, 2))
        head = variables["params"]["head"]
        return {name: maps[name] for name in ("stage3", "stage4")}, last @ head["kernel"] + head["bias"]

    maps, logits = both(variables)
    # A pre-activation network's stages before the last are not activated: forward_intermediates would normalize them.
    for stage in ("stage4",) if name.startswith("resnetv2") else ("stage3", "stage4"):
        found = np.concatenate([maps[stage][0].mean(axis=(0, 1)), maps[stage][0, :, :, 0].ravel()])
        expected = golden[f"{library}/{name}/{stride}/{size}/{stage}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=stage)
    if library == "timm":
        expected = golden[f"timm/{name}/{stride}/{size}/logits"]
        np.testing.assert_allclose(logits[0], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "fields",
    [{}, dict(avg_down=True), dict(activation_order="preactivation"), dict(block="bottleneck"), dict(shortcut="C")],
    ids=str,
)
def test_the_arrays_of_a_network_do_not_depend_on_its_output_stride(fields):
    """Two stages are equally wide: their projection stays, though a stage that dilates changes no shape."""

    def shapes(stride):
        model = ResNet(**TINY, output_stride=stride, **fields)
        return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 3))))

    assert shapes(4) == shapes(8) == shapes(32) == shapes(0)


def test_the_whole_stride_is_the_undilated_network():
    plain, whole = (ResNet(**TINY, output_stride=stride) for stride in (0, 32))
    variables = scrambled(jax.eval_shape(lambda: plain.init(KEY, jnp.zeros((1, 32, 32, 3)))))
    x = jnp.asarray(images(1, 40).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(jax.jit(whole.apply)(variables, x), jax.jit(plain.apply)(variables, x))


def test_an_output_stride_that_no_stage_reaches_is_refused_with_those_there_are():
    for fields, said in ((dict(output_stride=12), "4, 8, 16, 32, or 0"), (dict(output_stride=64), "4, 8, 16, 32")):
        with pytest.raises(ConfigError, match=f"output_stride is {fields['output_stride']}: .* {said}"):
            create_model("resnet18", **fields).feature_info()
    with pytest.raises(ConfigError, match=r"output_stride is 8: .* 1, 2, 4, or 0"):
        create_model("cifar_resnet20", output_stride=8).feature_info()


def test_densenet_has_no_dilated_form():
    with pytest.raises(ConfigError, match="DenseNet has no field 'output_stride'"):
        create_model("densenet121", output_stride=8)


# Frozen BatchNorm


@pytest.mark.parametrize(
    "model",
    [ResNet((1, 1), (8, 16), stem="cifar", stem_width=8, num_classes=5), SMALL_DENSENET],
    ids=["ResNet", "DenseNet"],
)
def test_frozen_norms_compute_the_same_in_training_as_in_evaluation_and_change_no_statistics(model):
    """They ask nothing of other devices: the axis over which others would share statistics need not be there."""
    x = jnp.asarray(images(2, 16).transpose(0, 2, 3, 1))
    variables = scrambled(jax.eval_shape(lambda: model.init(KEY, x)))
    frozen = model.clone(norm_frozen=True, norm_axis="group")
    apply = jax.jit(lambda variables: frozen.apply(variables, x, train=True, mutable=["batch_stats"]))
    trained, updates = apply(variables)
    np.testing.assert_allclose(trained, jax.jit(model.apply)(variables, x), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_frozen_norms_leave_stochastic_depth_on():
    model = ResNet((2,), (8,), stem="cifar", stem_width=8, stochastic_depth=0.9, norm_frozen=True, num_classes=0)
    x = jnp.asarray(images(2, 8).transpose(0, 2, 3, 1))
    variables = scrambled(jax.eval_shape(lambda: model.init(KEY, x)))
    apply = jax.jit(lambda seed: model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}))
    assert len({np.asarray(apply(seed)).tobytes() for seed in range(8)}) > 1


# The head


@pytest.mark.parametrize("model", [ResNet((1,), (8,), num_classes=5), SMALL_DENSENET], ids=["ResNet", "DenseNet"])
def test_pre_logits_are_what_the_head_reads_and_what_a_network_without_one_returns(model):
    x = jnp.asarray(images(2, 16).transpose(0, 2, 3, 1))
    variables = scrambled(jax.eval_shape(lambda: model.init(KEY, x)))
    pooled, logits = jax.jit(lambda v: (model.apply(v, x, method="pre_logits"), model.apply(v, x)))(variables)
    assert pooled.shape == (2, model.feature_info()[-1].channels) and pooled.dtype == jnp.float32
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-5)
    params = {name: value for name, value in variables["params"].items() if name != "head"}
    headless = jax.jit(model.clone(num_classes=0).apply)({**variables, "params": params}, x)
    np.testing.assert_allclose(headless, pooled, rtol=1e-6)
