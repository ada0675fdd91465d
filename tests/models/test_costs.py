import csv

import pytest

from resnet_jax import create_model, list_models
from resnet_jax.models.registry import image_shape
from resnet_jax.models.summary import costs
from tests.golden.make_torch_costs import GOLDEN

with GOLDEN.open() as file:
    TORCH = {row["name"]: (int(row["params"]), int(row["macs"])) for row in csv.DictReader(file)}

# torchvision 0.28 says the same of its weights: their `num_params`, and billions of multiply-adds, `_ops`.
TORCHVISION = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
    "densenet121": (7_978_856, 2.834),
    "densenet161": (28_681_000, 7.728),
    "densenet169": (14_149_480, 3.360),
    "densenet201": (20_013_928, 4.291),
}


@pytest.mark.parametrize("name", list_models())
def test_parameters_and_multiply_adds_are_those_of_torch_to_the_unit(name):
    assert costs(create_model(name), image_shape(name)) == TORCH[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_counts_of_torch_are_those_that_torchvision_publishes(name):
    params, macs = TORCH[name]
    assert (params, round(macs / 1e9, 3)) == TORCHVISION[name]


def test_multiply_adds_of_a_cifar_network_are_those_of_its_layers():
    stem = 32 * 32 * 16 * 27
    stages = 32 * 32 * 16 * 144 * 6 + 16 * 16 * 32 * (144 + 288 * 5) + 8 * 8 * 64 * (288 + 576 * 5)
    assert costs(create_model("cifar_resnet20"), (32, 32, 3)).macs == stem + stages + 640
