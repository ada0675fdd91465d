import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax import load_weights, save_weights
from resnet_jax.errors import DataError
from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.names import DENSENET, names_of, torch_name
from tests.models.reference import scrambled
from tests.weights.test_weights import bits

TINY = dict(block_sizes=(1, 2), growth_rate=4, stem_width=6, num_classes=5)


def filled(model, channels=3):
    return scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, channels)))))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize(
    "fields", [dict(), dict(stem="cifar"), dict(bottleneck=0), dict(num_classes=0), dict(channels=1)]
)
def test_loaded_weights_are_the_saved_ones_bit_for_bit(file, fields):
    channels = fields.pop("channels", 3)
    model = DenseNet(**TINY | fields)
    variables = filled(model, channels)
    save_weights(model, variables, file)
    assert bits(load_weights(model, file)) == bits(variables)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stem_conv/kernel", "features.conv0.weight"),
        ("stem_bn/mean", "features.norm0.running_mean"),
        ("block1_layer1/bn1/scale", "features.denseblock1.denselayer1.norm1.weight"),
        ("block4_layer16/conv2/kernel", "features.denseblock4.denselayer16.conv2.weight"),
        ("transition3/bn/var", "features.transition3.norm.running_var"),
        ("transition3/conv/kernel", "features.transition3.conv.weight"),
        ("last_bn/bias", "features.norm5.bias"),
        ("head/kernel", "classifier.weight"),
    ],
)
def test_a_path_has_the_name_that_torchvision_gives_it(path, name):
    assert torch_name(path, DENSENET) == name


def test_a_class_made_from_densenet_has_its_names():
    class Mine(DenseNet):
        pass

    assert torch_name("head/bias", names_of(Mine(**TINY))) == "classifier.bias"


def test_torchvisions_old_names_are_read(file):
    model = DenseNet(**TINY)
    variables = filled(model)
    save_weights(model, variables, file)
    tensors = safetensors.numpy.load_file(file)
    old = {}
    for name, array in tensors.items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{layer}.", f".{layer[:4]}.{layer[4]}.")
        old[name] = array
    assert "features.denseblock2.denselayer1.norm.1.running_var" in old and len(old.keys() - tensors.keys()) == 30
    safetensors.numpy.save_file(old, file)
    assert bits(load_weights(model, file)) == bits(variables)


def test_weights_and_variables_of_another_family_are_refused(file):
    dense, residual = DenseNet(**TINY), ResNet(stage_sizes=(1, 1), stage_widths=(8, 16), num_classes=5)
    for model, other, missing in ((dense, residual, "features|classifier"), (residual, dense, "conv1|bn1|fc")):
        variables = filled(other)
        with pytest.raises(DataError, match=rf"not those of the network: they differ in ({missing})[.]"):
            save_weights(model, variables, file)
        save_weights(other, variables, file)
        with pytest.raises(DataError, match=r"has no \S+: it belongs to another network"):
            load_weights(model, file)
        file.unlink()


def test_an_array_that_the_network_lacks_is_named(file):
    model = DenseNet(**TINY)
    save_weights(model, filled(model), file)
    tensors = safetensors.numpy.load_file(file) | {"features.transition2.conv.weight": np.zeros((1, 1, 1, 1))}
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(DataError, match=r"has features\.transition2\.conv\.weight, which the network has not"):
        load_weights(model, file)
