import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.lab.analysis.gradcam import gradcam
from tests.models.reference import scrambled

NETWORKS = {
    "residual": ("cifar_resnet8", dict(stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4, num_classes=5)),
    "dense": ("cifar_densenet_bc100_12", dict(block_sizes=(1, 1), growth_rate=4, stem_width=4, num_classes=5)),
}


@pytest.fixture(params=NETWORKS)
def seen(request):
    """What a network makes of two images: its last maps, its head, its logits, and Grad-CAM of the classes 1 and 4."""
    name, fields = NETWORKS[request.param]
    model = create_model(name, **fields)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = scrambled(jax.eval_shape(model.init, jax.random.key(0), images))

    @jax.jit
    def program(images):
        heat = gradcam(model, variables, images, jnp.array([1, 4]))
        return model.apply(variables, images, method="features")["stage2"], model.apply(variables, images), heat

    maps, logits, heat = map(np.asarray, program(images))
    return maps, variables["params"]["head"], logits, heat


def test_gradcam_is_the_class_activation_map_of_a_linear_head(seen):
    maps, head, _, heat = seen
    places = maps.shape[1] * maps.shape[2]
    for image, label in enumerate((1, 4)):
        activation = sum(maps[image, ..., k] * head["kernel"][k, label] for k in range(maps.shape[-1]))
        assert (activation < 0).any()  # so that its rectification is seen
        np.testing.assert_allclose(heat[image], np.maximum(activation, 0) / places, rtol=1e-4, atol=1e-6)


def test_what_the_places_say_for_a_class_adds_up_to_its_logit(seen):
    # relu(x) - relu(-x) = x: Grad-CAM less that of the head with the signs turned is the map before rectification.
    maps, head, logits, heat = seen
    places = maps.shape[1] * maps.shape[2]
    for image, label in enumerate((1, 4)):
        against = np.maximum(-(maps[image] @ head["kernel"][:, label]), 0) / places
        total = heat[image].sum() - against.sum() + head["bias"][label]
        np.testing.assert_allclose(total, logits[image, label], rtol=1e-4)


def test_gradcam_of_an_image_does_not_depend_on_the_others_in_its_batch():
    name, fields = NETWORKS["residual"]
    model = create_model(name, **fields)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = scrambled(jax.eval_shape(model.init, jax.random.key(0), images))
    program = jax.jit(lambda images: gradcam(model, variables, images, jnp.array([1, 1])))
    other = np.stack([images[0], images[1] * 3])
    np.testing.assert_allclose(program(images)[0], program(other)[0], rtol=1e-5, atol=1e-7)
