import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from resnet_jax.lab.analysis.spectrum import density, hessian_product, hessian_spectrum, lanczos
from resnet_jax.training.losses import cross_entropy
from tests.lab.analysis.networks import linear


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return axes @ np.diag(values) @ axes.T


def test_with_as_many_steps_as_dimensions_the_nodes_are_the_eigenvalues():
    values = np.array([-2.0, 0.5, 1.0, 3.0, 10.0])
    matrix, start = symmetric(values), np.random.default_rng(1).normal(size=5)
    found = lanczos(lambda v: matrix @ v, start, 5)
    np.testing.assert_allclose(found.values, values, rtol=1e-4)
    # The quadrature is exact for powers: their weighted sums are start' A^k start.
    start /= np.linalg.norm(start)
    for power in range(4):
        moment = start @ np.linalg.matrix_power(matrix, power) @ start
        assert np.sum(found.weights * found.values**power) == pytest.approx(moment, rel=1e-4)


def test_it_ends_where_the_space_is_exhausted():
    matrix = symmetric(np.array([1.0, 1.0, 1.0, 4.0]))
    found = lanczos(lambda v: matrix @ v, np.ones(4), 4)
    np.testing.assert_allclose(found.values, [1, 4], rtol=1e-4)
    assert found.weights.sum() == pytest.approx(1)


def test_the_extreme_eigenvalues_are_those_of_the_whole_hessian():
    model, variables, images, labels = linear(0.5, -0.2)
    flat, unravel = ravel_pytree(variables["params"])

    def loss(flat):
        logits = model.apply(variables | {"params": unravel(flat)}, images)
        return jnp.mean(cross_entropy(logits, jax.nn.one_hot(labels, 3)))

    hessian = np.asarray(jax.hessian(loss)(flat), np.float64)
    product, size = hessian_product(model, variables, images, labels, batch_size=4)
    vector = np.random.default_rng(2).normal(size=size).astype(np.float32)
    np.testing.assert_allclose(product(vector), hessian @ vector, atol=1e-5)
    (spectrum,) = hessian_spectrum(model, variables, images, labels, steps=size, draws=1, seed=0)
    expected = np.linalg.eigvalsh(hessian)
    assert spectrum.values[-1] == pytest.approx(expected[-1], rel=1e-3)
    assert spectrum.values[0] == pytest.approx(expected[0], abs=1e-4)


def test_the_density_has_an_area_of_one_and_lies_where_the_nodes_are():
    at = np.linspace(-3, 5, 2001)
    found = density([{"values": [0.0, 2.0], "weights": [0.75, 0.25]}], at, 0.1)
    assert np.trapezoid(found, at) == pytest.approx(1, rel=1e-6)
    assert at[np.argmax(found)] == pytest.approx(0)
    assert found[at > 1].sum() / found.sum() == pytest.approx(0.25, rel=1e-3)
