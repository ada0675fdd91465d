import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.lab.analysis.hooks import blocks, gated, routed, with_statistics_of
from tests.lab.analysis.networks import small


def test_the_blocks_of_a_network_are_seen_in_order_with_their_shapes():
    model, variables, images, _ = small("post-activation", (2, 1), stage_widths=(4, 8))
    assert [tuple(block) for block in blocks(model, variables, images)] == [
        ("stage1_block1", (6, 8, 8, 4), (6, 8, 8, 4), True),
        ("stage1_block2", (6, 8, 8, 4), (6, 8, 8, 4), True),
        ("stage2_block1", (6, 8, 8, 4), (6, 4, 4, 8), True),
    ]
    model, variables, images, _ = small("plain", (1, 1), stage_widths=(4, 8))
    assert [(block.residual, block.keeps_shape) for block in blocks(model, variables, images)] == [
        (False, True),
        (False, False),
    ]


def test_a_network_without_any_branch_is_its_stem_its_shortcuts_and_its_head():
    model, variables, images, _ = small("post-activation", (1, 1), stage_widths=(4, 8), shortcut="A")
    closed = dict.fromkeys(("stage1_block1", "stage2_block1"), jnp.zeros(()))
    with gated(closed):
        logits = model.apply(variables, images)
    stem = np.asarray(model.apply(variables, images, method="features")["stem"], np.float64)
    pooled = np.pad(stem[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 4))).mean(axis=(1, 2))
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["post-activation", "pre-activation"])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(kind):
    model, variables, images, _ = small(kind, (1, 1), stage_widths=(4, 8))  # the second block projects

    @jax.jit
    def gradients(images, ways):
        def total(images, way):
            with routed(dict(zip(("stage1_block1", "stage2_block1"), way, strict=True))):
                return jnp.sum(model.apply(variables, images)[:, 1])

        whole = jax.grad(lambda images: jnp.sum(model.apply(variables, images)[:, 1]))(images)
        return whole, jnp.stack([jax.grad(total)(images, way) for way in ways])

    ways = jnp.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
    whole, by_path = gradients(images, ways)
    np.testing.assert_allclose(by_path.sum(axis=0), whole, rtol=1e-3, atol=1e-6)
    assert all(np.abs(path).max() > 1e-4 for path in by_path)


def test_statistics_of_images_are_the_moments_of_what_the_norms_read():
    model, variables, images, _ = small("post-activation", (1,), norm_unbiased=False)
    kernel = variables["params"]["stem_conv"]["kernel"]
    found = with_statistics_of(model, variables, images)["batch_stats"]["stem_bn"]
    maps = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(found["mean"], maps.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], maps.var(axis=(0, 1, 2)), rtol=1e-4)


def test_a_gate_of_a_block_that_the_network_lacks_is_refused():
    model, variables, images, _ = small("post-activation", (2,))
    with pytest.raises(ValueError, match=r"no blocks \['stage9_block1'\]"), gated({"stage9_block1": jnp.zeros(())}):
        model.apply(variables, images)


def test_a_densenet_has_no_blocks():
    model = create_model("cifar_densenet_bc100_12", block_sizes=(1, 1), growth_rate=4, stem_width=4)
    images = np.zeros((1, 8, 8, 3), np.float32)
    variables = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), images)
    assert blocks(model, variables, images) == []
