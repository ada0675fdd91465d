import math

import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.paths import path_gradients, share
from tests.lab.analysis.networks import linear, small


@pytest.mark.parametrize("draws", [100, 2], ids=["all paths", "random paths"])
def test_branches_of_one_factor_share_the_gradient_binomially(draws):
    found = path_gradients(*linear(0.5, 0.5, 0.5, 0.5), draws=draws, seed=0)
    np.testing.assert_allclose(found.magnitude, found.magnitude[0] * 0.5 ** np.arange(5), rtol=1e-4)
    np.testing.assert_array_equal(found.paths, [1, 4, 6, 4, 1])
    expected = [math.comb(4, k) * 0.5**k / 1.5**4 for k in range(5)]
    np.testing.assert_allclose(found.share, expected, rtol=1e-4)


def test_all_paths_of_a_length_are_averaged():
    found = path_gradients(*linear(0.5, 1.0, -2.0), draws=3, seed=0)
    products = [1.0, (0.5 + 1 + 2) / 3, (0.5 + 1 + 2) / 3, 1.0]  # of absolute factors, mean over the sets
    np.testing.assert_allclose(found.magnitude / found.magnitude[0], products, rtol=1e-4)


def test_no_gradient_has_no_share():
    assert share(np.zeros(3)).tolist() == [0, 0, 0]


def test_a_plain_network_has_one_path():
    with pytest.raises(ConfigError, match="single path"):
        path_gradients(*small("plain"), draws=1, seed=0)
