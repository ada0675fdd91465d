import jax
import numpy as np

from resnet_jax.lab.analysis.responses import layer_responses
from resnet_jax.models.initialization import initialize
from tests.lab.analysis.networks import small


def test_new_layers_respond_with_a_deviation_of_one_and_later_with_their_scales():
    model, _, images, _ = small("post-activation", (1, 1), stage_widths=(4, 8))
    variables = initialize(model, jax.random.key(0), images.shape[1:])
    found = layer_responses(model, variables, images, train=True)
    assert list(found) == [
        "stem_bn",
        "stage1_block1/bn1",
        "stage1_block1/bn2",
        "stage2_block1/bn1",
        "stage2_block1/bn2",
    ]
    np.testing.assert_allclose(list(found.values()), 1, rtol=1e-2)
    # Channels of deviation s and mean b deviate together by sqrt(mean s^2 + variance of b).
    scale, bias = np.array([1.0, 2.0, 0.0, 3.0], np.float32), np.array([0.0, 4.0, 0.0, 0.0], np.float32)
    variables["params"]["stage1_block1"]["bn2"] = {"scale": scale, "bias": bias}
    found = layer_responses(model, variables, images, train=True)
    np.testing.assert_allclose(found["stage1_block1/bn2"], np.sqrt(14 / 4 + bias.var()), rtol=1e-2)


def test_in_evaluation_responses_are_those_of_the_running_statistics():
    model, _, images, _ = small("post-activation", (1,))
    variables = initialize(model, jax.random.key(0), images.shape[1:])
    maps = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem_conv"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = layer_responses(model, variables, images)
    np.testing.assert_allclose(found["stem_bn"], maps.std(), rtol=1e-3)
