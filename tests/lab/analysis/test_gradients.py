import jax
import numpy as np

from resnet_jax.lab.analysis.gradients import gradient_norms
from tests.lab.analysis.networks import linear, small, softmax


def test_the_norms_of_a_linear_network_are_those_of_its_equations():
    model, variables, images, labels = linear(0.5, -0.2, 1.0)
    found = gradient_norms(model, variables, images, labels)
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), variables["params"])
    kernel, head = params["conv"]["kernel"][0, 0], params["head"]
    means = np.asarray(images, np.float64).mean(axis=(1, 2))
    factor = 1.5 * 0.8 * 2.0
    logits = factor * means @ kernel @ head["kernel"] + head["bias"]
    by_logits = softmax(logits) - np.eye(3)[labels]
    by_maps = by_logits @ head["kernel"].T  # of the mean over 64 pixels
    norm = np.sqrt(np.mean(np.sum(by_maps**2, axis=1)) / 64)
    expected = {"stage1_block1": factor * norm, "stage1_block2": 0.8 * 2.0 * norm, "stage1_block3": 2.0 * norm}
    assert list(found.inputs) == list(expected)
    np.testing.assert_allclose(list(found.inputs.values()), list(expected.values()), rtol=1e-4)
    by_kernel = factor * means.T @ by_maps / len(images)
    np.testing.assert_allclose(found.kernels["conv"], np.sqrt(np.mean(by_kernel**2)), rtol=1e-4)


def test_every_convolution_is_measured_in_the_order_of_the_network():
    model, variables, images, labels = small("post-activation", (1, 1), stage_widths=(4, 8), stochastic_depth=0.5)
    found = gradient_norms(model, variables, images, labels)
    assert list(found.kernels) == [
        "stem_conv",
        "stage1_block1/conv1",
        "stage1_block1/conv2",
        "stage2_block1/conv1",
        "stage2_block1/conv2",
        "stage2_block1/shortcut_conv",
    ]
    assert min(found.kernels.values()) > 0
