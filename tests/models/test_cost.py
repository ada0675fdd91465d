import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.models.cost import multiply_adds, parameters
from tests.golden.make_torch_logits import COUNTED, GOLDEN

# torchvision 0.28 gives billions of multiply-adds at 224x224, to three places, as `_ops` of each weight.
TORCHVISION = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.230,
    "resnext101_32x8d": 16.414,
    "resnext101_64x4d": 15.460,
    "wide_resnet50_2": 11.398,
    "wide_resnet101_2": 22.753,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_multiply_adds_are_those_of_torchvision(name):
    assert round(multiply_adds(create_model(name), 224) / 1e9, 3) == TORCHVISION[name]


@pytest.mark.parametrize("name", COUNTED)
def test_multiply_adds_are_those_of_timm_to_the_unit(name):
    with np.load(GOLDEN) as golden:
        assert multiply_adds(create_model(name), 224) == golden[f"{name}/costs"][1]


def test_multiply_adds_of_a_cifar_network_are_those_of_its_layers():
    stem = 32 * 32 * 16 * 27
    stages = 32 * 32 * 16 * 144 * 6 + 16 * 16 * 32 * (144 + 288 * 5) + 8 * 8 * 64 * (288 + 576 * 5)
    assert multiply_adds(create_model("cifar_resnet20"), 32) == stem + stages + 640


def test_parameters_leave_running_statistics_out():
    assert parameters(create_model("resnet18"), 32) == 11_689_512
