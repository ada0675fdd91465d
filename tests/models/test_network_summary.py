import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.models.summary import layers
from tests.models.reference import scrambled

# Of the last feature map. ResNet v1: Araujo, Norris and Sim 2019 (Distill), table of networks. The others follow from
# size = 1 + the sum over layers of (kernel - 1) * product of the strides before: v1.5 strides in its 3x3.
RECEPTIVE_FIELDS = {
    "resnet50_v1": 483,
    "resnet101_v1": 1027,
    "resnet152_v1": 1507,
    "resnet18": 435,
    "resnet50": 427,
    "cifar_resnet20": 81,
}


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_receptive_fields_are_the_published_ones(name):
    fields = [layer.receptive_field for layer in layers(create_model(name), (64, 64, 3))]
    assert max(field for field in fields if field) == RECEPTIVE_FIELDS[name]
    assert fields[-2:] == [None, None]  # the mean over the image, and the head


# Networks of two stages, and the layer that makes each of their feature maps.
RESNET = dict(stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4)
SMALL = {
    "padded shortcut": ("cifar_resnet8", RESNET),
    "averaged shortcut": ("resnet18d", RESNET | dict(stem_hidden=(4, 4))),
    "bottleneck": ("resnet50_v1", RESNET),
    "dense": ("densenet121", dict(block_sizes=(1, 2), growth_rate=4, stem_width=4)),
}
LAST = {"stem": "stem", "stage1": ("stage1", "block1"), "stage2": ("stage2", "block2")}


@pytest.mark.parametrize("name", SMALL)
def test_a_value_depends_on_the_pixels_of_its_receptive_field_and_on_no_others(name):
    # In image i, row i is no number, and so is every value that depends on it.
    network, fields = SMALL[name]
    model, size = create_model(network, num_classes=2, **fields), 64
    variables = scrambled(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, 8, 3))))
    images = np.ones((size, size, 8, 3), np.float32)
    images[np.arange(size), np.arange(size)] = np.nan
    maps = jax.jit(lambda images: model.apply(variables, images, method="features"))(images)
    found = layers(model, (size, size, 3))
    for stage, prefix in LAST.items():
        spoiled = np.isnan(maps[stage]).any((2, 3))
        middle = spoiled[:, spoiled.shape[1] // 2]
        fields = [layer.receptive_field for layer in found if layer.name.startswith(prefix)]
        assert middle.sum() == max(fields)
        assert np.ptp(np.flatnonzero(middle)) == max(fields) - 1


def test_behind_squeeze_and_excitation_every_value_depends_on_the_whole_image():
    found = {layer.name: layer for layer in layers(create_model("seresnet18"), (64, 64, 3))}
    assert found["stage1_block1/bn2"].receptive_field == 27
    assert found["stage1_block1/se/fc1"].receptive_field is None
    assert found["stage1_block2/conv1"].receptive_field is None


def test_a_layer_has_the_shape_and_cost_of_its_definition():
    found = {layer.name: layer for layer in layers(create_model("resnext50_32x4d"), (224, 224, 3))}
    grouped = found["stage2_block1/conv2"]
    assert (grouped.kind, grouped.output) == ("convolution", (28, 28, 256))
    assert grouped.parameters == 256 * 8 * 9 and grouped.multiply_adds == 28 * 28 * 256 * 8 * 9
    assert (found["max_pool"].kind, found["max_pool"].output) == ("pooling", (56, 56, 64))
    assert (found["stem_bn"].kind, found["stem_bn"].parameters) == ("normalization", 128)
    head = found["head"]
    assert (head.kind, head.output) == ("dense", (1000,))
    assert (head.parameters, head.multiply_adds) == (2_049_000, 2_048_000)
    assert list(found)[:3] == ["stem_conv", "stem_bn", "max_pool"] and list(found)[-2:] == ["mean", "head"]


def test_parameters_of_the_layers_are_those_of_the_network():
    assert sum(layer.parameters for layer in layers(create_model("densenet121"), (64, 64, 3))) == 7_978_856
