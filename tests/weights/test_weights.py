import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax import create_model, load_weights, save_weights
from resnet_jax.data.augment import normalize
from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD
from resnet_jax.errors import DataError
from resnet_jax.models.blocks import SHORTCUTS
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.names import RESNET_V2, from_torch, to_torch, torch_name
from tests.models.reference import scrambled

TINY = dict(stage_sizes=(1, 2), stage_widths=(8, 16), stem="cifar", stem_width=8, num_classes=5)


def filled(channels=3, seed=0, **fields):
    model = ResNet(**TINY | fields)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, channels))))
    return model, scrambled(shapes, seed)


def bits(tree):
    return jax.tree.map(lambda array: (np.asarray(array).dtype.name, np.asarray(array).tobytes()), tree)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.fixture
def saved(file):
    """A network, the file with its weights, and a function that writes the file again with some tensors changed."""
    model, variables = filled()
    save_weights(model, variables, file)
    tensors = safetensors.numpy.load_file(file)

    def rewrite(**changes):
        changed = tensors | {name.replace("__", "."): array for name, array in changes.items()}
        safetensors.numpy.save_file({name: array for name, array in changed.items() if array is not None}, file)

    return model, variables, tensors, rewrite


# There and back


@pytest.mark.parametrize("activation_order", ["original", "preactivation"])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_loaded_weights_are_the_saved_ones_bit_for_bit(file, block, shortcut, activation_order):
    model, variables = filled(block=block, shortcut=shortcut, activation_order=activation_order)
    save_weights(model, variables, file)
    assert bits(load_weights(model, file)) == bits(variables)


@pytest.mark.parametrize(
    "fields",
    [
        dict(block="bottleneck", cardinality=4, base_width=16),
        dict(stem="imagenet"),
        dict(stem="deep", avg_down=True),
        dict(channels=1, stem="deep", avg_down=True, activation_order="preactivation"),
        dict(se_reduction=16),
        dict(se_reduction=16, activation_order="preactivation"),
        dict(shortcut_gate="exclusive", activation_order="bn_after_addition"),
        dict(conv_bias=True, projection_norm=False),
        dict(num_classes=0),
        dict(channels=1),
        dict(channels=1, stem="imagenet", activation_order="preactivation"),
    ],
)
def test_groups_stems_heads_and_grey_images_come_back_bit_for_bit(file, fields):
    model, variables = filled(**fields)
    save_weights(model, variables, file)
    assert bits(load_weights(model, file)) == bits(variables)


def test_a_file_name_may_be_a_string(file):
    model, variables = filled()
    save_weights(model, variables, str(file))
    assert bits(load_weights(model, str(file))) == bits(variables)


def test_a_second_save_replaces_the_first(file):
    model, first = filled(seed=0)
    _, second = filled(seed=1)
    save_weights(model, first, file)
    save_weights(model, second, file)
    assert bits(load_weights(model, file)) == bits(second)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


# Names and layout


def test_names_are_those_of_torchvision(file):
    model, variables = filled(stage_sizes=(1, 1))
    save_weights(model, variables, file)
    norms = ("weight", "bias", "running_mean", "running_var")
    assert safetensors.numpy.load_file(file).keys() == {
        "conv1.weight",
        *(f"bn1.{leaf}" for leaf in norms),
        "layer1.0.conv1.weight",
        *(f"layer1.0.bn1.{leaf}" for leaf in norms),
        "layer1.0.conv2.weight",
        *(f"layer1.0.bn2.{leaf}" for leaf in norms),
        "layer2.0.conv1.weight",
        *(f"layer2.0.bn1.{leaf}" for leaf in norms),
        "layer2.0.conv2.weight",
        *(f"layer2.0.bn2.{leaf}" for leaf in norms),
        "layer2.0.downsample.0.weight",
        *(f"layer2.0.downsample.1.{leaf}" for leaf in norms),
        "fc.weight",
        "fc.bias",
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stem_conv/kernel", "conv1.weight"),
        ("stem_bn/scale", "bn1.weight"),
        ("stem_bn/var", "bn1.running_var"),
        ("stage1_block1/conv1/kernel", "layer1.0.conv1.weight"),
        ("stage3_block36/conv3/kernel", "layer3.35.conv3.weight"),
        ("stage4_block3/bn2/bias", "layer4.2.bn2.bias"),
        ("stage2_block1/shortcut_conv/kernel", "layer2.0.downsample.0.weight"),
        ("stage2_block1/shortcut_bn/mean", "layer2.0.downsample.1.running_mean"),
        ("stem_conv/conv1/kernel", "conv1.0.weight"),
        ("stem_conv/bn2/mean", "conv1.4.running_mean"),
        ("stem_conv/conv3/kernel", "conv1.6.weight"),
        ("stage1_block1/averaged_shortcut_conv/kernel", "layer1.0.downsample.1.weight"),
        ("stage1_block1/averaged_shortcut_bn/scale", "layer1.0.downsample.2.weight"),
        ("stage2_block3/se/fc1/kernel", "layer2.2.se.fc1.weight"),
        ("stage2_block3/se/fc2/bias", "layer2.2.se.fc2.bias"),
        ("head/kernel", "fc.weight"),
        ("head/bias", "fc.bias"),
    ],
)
def test_a_path_has_the_name_that_torchvision_gives_it(path, name):
    assert torch_name(path) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stem_conv/kernel", "stem.conv.weight"),
        ("stem_conv/conv3/kernel", "stem.conv3.weight"),
        ("stem_conv/bn2/mean", "stem.norm2.running_mean"),
        ("stage3_block36/conv3/kernel", "stages.2.blocks.35.conv3.weight"),
        ("stage1_block1/bn1/scale", "stages.0.blocks.0.norm1.weight"),
        ("stage2_block1/shortcut_conv/kernel", "stages.1.blocks.0.downsample.conv.weight"),
        ("stage2_block1/averaged_shortcut_conv/kernel", "stages.1.blocks.0.downsample.conv.weight"),
        ("stage2_block1/se/fc1/bias", "stages.1.blocks.0.se.fc1.bias"),
        ("last_bn/scale", "norm.weight"),
        ("head/kernel", "head.fc.weight"),
    ],
)
def test_a_path_of_a_preactivation_network_has_the_name_that_timm_gives_it(path, name):
    assert torch_name(path, RESNET_V2) == name


def test_the_head_of_a_preactivation_network_is_a_1x1_convolution_as_in_timm(file):
    model, variables = filled(activation_order="preactivation")
    save_weights(model, variables, file)
    kernel = safetensors.numpy.load_file(file)["head.fc.weight"]
    assert kernel.shape == (5, 16, 1, 1)
    np.testing.assert_array_equal(kernel[:, :, 0, 0].T, variables["params"]["head"]["kernel"])


def test_a_path_without_a_known_name_is_named():
    with pytest.raises(ValueError, match="stage1_block1/attention/kernel"):
        torch_name("stage1_block1/attention/kernel")


def test_kernels_are_stored_with_outputs_first_and_dense_layers_transposed():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert to_torch(kernel).shape == (5, 4, 2, 3)
    assert to_torch(kernel)[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    assert to_torch(kernel)[1, 0, 1, 0] == kernel[1, 0, 0, 1]
    np.testing.assert_array_equal(to_torch(np.array([[1, 2, 3], [4, 5, 6]])), [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(to_torch(np.array([1, 2])), [1, 2])
    assert from_torch(np.zeros((5, 4, 2, 3))).shape == (2, 3, 4, 5)


def test_a_saved_kernel_is_the_transposed_one(saved):
    _, variables, tensors, _ = saved
    kernel = variables["params"]["stage2_block1"]["conv1"]["kernel"]
    assert tensors["layer2.0.conv1.weight"].shape == (16, 8, 3, 3)
    np.testing.assert_array_equal(tensors["layer2.0.conv1.weight"][7, 5, 0, 2], kernel[0, 2, 5, 7])


# What the file may hold


def test_the_counters_of_torch_are_left_out(saved, file):
    model, variables, _, rewrite = saved
    rewrite(bn1__num_batches_tracked=np.array(7), layer1__0__bn1__num_batches_tracked=np.array(7))
    assert bits(load_weights(model, file)) == bits(variables)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_are_converted_to_float32(saved, file, dtype):
    model, _, tensors, rewrite = saved
    rewrite(**{name: array.astype(dtype) for name, array in tensors.items()})
    loaded = load_weights(model, file)
    assert {array.dtype for array in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    expected = tensors["fc.bias"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(loaded["params"]["head"]["bias"], expected)


# What it may not


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"])
def test_a_missing_tensor_is_named(saved, file, name):
    model, _, _, rewrite = saved
    rewrite(**{name: None})
    with pytest.raises(DataError, match=rf"weights\.safetensors has no {name}: it belongs to another network"):
        load_weights(model, file)


def test_a_tensor_left_over_is_named(saved, file):
    model, _, _, rewrite = saved
    rewrite(layer2__0__se__fc1__weight=np.zeros((1, 1, 1, 1), np.float32))
    with pytest.raises(DataError, match=r"has layer2\.0\.se\.fc1\.weight, which the network has not"):
        load_weights(model, file)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(saved, file):
    model, _, _, rewrite = saved
    rewrite(fc__weight=np.zeros((7, 16), np.float32))
    with pytest.raises(DataError, match=r"fc\.weight in .* has the shape \(16, 7\) where the network has \(16, 5\)"):
        load_weights(model, file)


def test_weights_of_another_depth_are_refused(saved, file):
    deeper, _ = filled(stage_sizes=(2, 2))
    with pytest.raises(DataError, match=r"has no layer1\.1\."):
        load_weights(deeper, file)
    shallower, _ = filled(stage_sizes=(1, 1))
    with pytest.raises(DataError, match=r"has layer2\.1\..*, which the network has not"):
        load_weights(shallower, file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip, as torch writes", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"weights\.safetensors is no safetensors file, or a damaged one"):
        load_weights(create_model("resnet18"), file)


def test_a_file_that_ends_too_early_is_refused(saved, file):
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match="or a damaged one"):
        load_weights(saved[0], file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no weights file .*gone\.safetensors: check the name"):
        load_weights(create_model("resnet18"), tmp_path / "gone.safetensors")


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(DataError, match="there is no weights file"):
        load_weights(create_model("resnet18"), tmp_path)


@pytest.mark.parametrize("name", ["weights", "weights.pth", "weights.safetensors.bak"])
def test_only_safetensors_are_written(tmp_path, name):
    model, variables = filled()
    with pytest.raises(DataError, match=r"end the name of .* with \.safetensors"):
        save_weights(model, variables, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_variables_of_another_network_are_not_saved(file):
    model, _ = filled()
    for other, name in (
        (dict(stage_sizes=(1, 1)), r"layer2\.1\."),
        (dict(activation_order="preactivation"), r"layer2\.0\.bn1\."),
    ):
        _, variables = filled(**other)
        with pytest.raises(DataError, match=rf"not those of the network: they differ in {name}"):
            save_weights(model, variables, file)
    assert not file.exists()


def test_parameters_without_their_statistics_are_not_saved(file):
    model, variables = filled()
    with pytest.raises(DataError, match=r"differ in layer1\.0\.bn1\.running_mean"):
        save_weights(model, {"params": variables["params"]}, file)


def test_variables_of_another_shape_are_not_written(file):
    model, _ = filled()
    _, other = filled(num_classes=6)
    with pytest.raises(DataError, match=r"fc\."):
        save_weights(model, other, file)
    assert not file.exists()


def test_a_stem_that_is_no_convolution_is_named(saved, file):
    model, rewrite = saved[0], saved[-1]
    rewrite(conv1__weight=np.zeros((8,), np.float32))
    with pytest.raises(DataError, match=r"conv1\.weight"):
        load_weights(model, file)


def test_a_type_that_numpy_has_not_is_refused(file):
    import json
    import struct

    header = json.dumps({"conv1.weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(DataError, match="float32"):
        load_weights(filled()[0], file)


SHARED = pathlib.Path(__file__).parents[2].parent / "shared"


@pytest.mark.skipif(not SHARED.exists(), reason="akamaster's weights and CIFAR-10 are not here")
@pytest.mark.parametrize("depth", [20, 32])
def test_akamasters_weights_give_the_logits_that_torch_gave(depth):
    (file,) = (SHARED / "data" / "cifar10_weights").glob(f"akamaster_resnet{depth}-*.th")
    expected = np.load(SHARED / "data" / "cifar10_weights" / f"logits_{file.stem}.npy")[:100]
    model = create_model(f"cifar_resnet{depth}", shortcut="A_both")
    variables = load_weights(model, file)
    images = cifar_images(100)
    images = normalize(jnp.asarray(images), IMAGENET_MEAN, IMAGENET_STD)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@functools.cache
def cifar_images(count):
    """The first test images of CIFAR-10, from the packed planes."""
    spec = importlib.util.spec_from_file_location("unpack_cifar10", SHARED / "tools" / "unpack_cifar10.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    return unpack.images("test", 10_000)[:count].transpose(0, 2, 3, 1)
