import jax
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.correlation import brown_noise, by_lag, correlations, gradient_function, line, white_noise
from tests.lab.analysis.networks import linear, small


def test_a_line_leads_from_one_image_to_the_other():
    found = line(np.zeros((2, 3)), np.full((2, 3), 4.0), 5)
    np.testing.assert_allclose(found[:, 1, 2], [0, 1, 2, 3, 4])
    assert found.shape == (5, 2, 3)


@pytest.mark.parametrize("at", ["image", "stage1_block2"])
def test_the_gradients_of_a_linear_network_are_one(at):
    model, variables, images, _ = linear(0.5, -0.2)
    gradients = gradient_function(model, variables, images[:1], at)(line(*np.asarray(images[:2]), 7), 1)
    np.testing.assert_allclose(correlations(gradients), np.ones((7, 7)), rtol=1e-5)
    head = variables["params"]["head"]["kernel"][:, 1] / 64
    expected = head * 0.8 if at != "image" else variables["params"]["conv"]["kernel"][0, 0] @ head * 1.5 * 0.8
    np.testing.assert_allclose(gradients[3].reshape(64, -1)[5], expected, rtol=1e-4)


def test_a_gradient_tells_how_a_logit_changes():
    model, variables, images, _ = small("pre-activation", (1,))
    gradient = gradient_function(model, variables, images[:1])(images[:1], 2)[0]
    step = 1e-2 * gradient.reshape(images[:1].shape) / np.linalg.norm(gradient)
    logits = jax.jit(model.apply)(variables, np.concatenate([images[:1] - step, images[:1] + step]))
    np.testing.assert_allclose((logits[1, 2] - logits[0, 2]) / 2e-2, np.linalg.norm(gradient), rtol=2e-2)


def test_white_noise_is_correlated_with_itself_alone_and_brown_noise_by_the_root_of_the_steps():
    white, brown = (correlations(noise(20, 20000, seed=0)) for noise in (white_noise, brown_noise))
    np.testing.assert_allclose(white, np.eye(20), atol=0.04)
    steps = np.arange(1, 21)
    ratio = np.minimum.outer(steps, steps) / np.maximum.outer(steps, steps)
    np.testing.assert_allclose(brown, np.sqrt(ratio), atol=0.04)


def test_lags_are_means_along_diagonals():
    matrix = np.array([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]])
    np.testing.assert_allclose(by_lag(matrix), [1.0, 0.4, 0.1])
    assert correlations(np.zeros((2, 3))).tolist() == [[0, 0], [0, 0]]


def test_a_block_that_is_not_there_is_named():
    model, variables, images, _ = linear(0.5)
    with pytest.raises(ConfigError, match="no block 'stage9_block1': name image, or one of stage1_block1"):
        gradient_function(model, variables, images[:1], "stage9_block1")
