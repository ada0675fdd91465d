import jax
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.deletion import delete_each, delete_several
from resnet_jax.models.initialization import initialize
from tests.lab.analysis.networks import KINDS, small, softmax


def scored(model, variables, images, labels):
    """The error and the loss, from logits of the network as it is."""
    probabilities = softmax(np.asarray(jax.jit(model.apply)(variables, images), np.float64))
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    return np.mean(probabilities.argmax(axis=1) != labels), loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_without_a_block_is_the_network_of_the_others(kind):
    model, variables, images, labels = small(kind)
    found = delete_each(model, variables, images, labels)
    np.testing.assert_allclose(found.whole, scored(model, variables, images, labels), rtol=1e-5)
    shallow = {
        collection: {name: tree for name, tree in trees.items() if name != "stage1_block3"}
        | {"stage1_block2": trees["stage1_block3"]}
        for collection, trees in variables.items()
    }
    names = [block.name for block in found.blocks]
    without = found.without[names.index("stage1_block2")]
    expected = scored(model.clone(stage_sizes=(2,)), shallow, images, labels)
    np.testing.assert_allclose(without, expected, rtol=1e-5)
    assert abs(without.loss - found.whole.loss) > 1e-3  # so that a block that stays would be seen


def test_blocks_whose_branch_is_zero_can_go_without_a_trace():
    model, _, images, labels = small("post-activation", (2, 1), stage_widths=(4, 8), zero_init_last=True)
    variables = initialize(model, jax.random.key(0), images.shape[1:])
    found = delete_each(model, variables, images, labels)
    assert len(found.without) == 3
    assert set(found.without) == {found.whole}
    several = delete_several(model, variables, images, labels, [0, 2, 3], draws=2, seed=0)
    assert {score for scores in several.without for score in scores} == {found.whole}


def test_several_deletions_are_those_of_one_by_one_at_the_ends():
    model, variables, images, labels = small("pre-activation", (2,))
    each = delete_each(model, variables, images, labels)
    several = delete_several(model, variables, images, labels, [0, 1], draws=8, seed=0)
    assert set(several.without[0]) == {each.whole}
    assert set(several.without[1]) == set(each.without)
    with pytest.raises(ConfigError, match="has 2 blocks"):
        delete_several(model, variables, images, labels, [3], draws=1, seed=0)


def test_where_every_block_changes_the_shape_of_a_plain_network_there_is_nothing_to_delete():
    model = create_model("cifar_plain8", stage_sizes=(1, 1), stage_widths=(8, 8), stem_width=4)
    images = np.zeros((1, 8, 8, 1), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(ConfigError, match="nothing to delete"):
        delete_each(model, variables, images, np.zeros(1, np.int32))
