import math

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import default_config
from resnet_jax.training.losses import LOSSES, binary_cross_entropy, cross_entropy

# softmax(log 1, log 2, log 5) = (1/8, 2/8, 5/8)
LOGITS = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))


@pytest.mark.parametrize(
    "targets, expected",
    [
        ((1, 0, 0), math.log(8)),
        ((0, 0, 1), math.log(8 / 5)),
        ((0.5, 0.25, 0.25), 0.5 * math.log(8) + 0.25 * math.log(4) + 0.25 * math.log(8 / 5)),
    ],
)
def test_cross_entropy_is_the_weighted_sum_of_negative_log_probabilities(targets, expected):
    np.testing.assert_allclose(cross_entropy(LOGITS, jnp.array([targets], jnp.float32)), [expected], rtol=1e-6)


# sigmoid(log 1, log 3, -log 4) = (1/2, 3/4, 1/5)
@pytest.mark.parametrize(
    "targets, probabilities",
    [((1, 0, 0), (1 / 2, 1 / 4, 4 / 5)), ((0, 1, 1), (1 / 2, 3 / 4, 1 / 5)), ((1, 1, 0), (1 / 2, 3 / 4, 4 / 5))],
)
def test_binary_cross_entropy_is_the_mean_over_classes_of_that_of_each(targets, probabilities):
    logits = jnp.array([[0.0, math.log(3), -math.log(4)]])
    expected = -sum(map(math.log, probabilities)) / 3
    np.testing.assert_allclose(binary_cross_entropy(logits, jnp.array([targets], jnp.float32)), [expected], rtol=1e-6)


def test_binary_cross_entropy_weighs_both_sides_of_a_soft_target():
    logits, targets = jnp.array([[math.log(3)]]), jnp.array([[0.3]])
    expected = -0.3 * math.log(3 / 4) - 0.7 * math.log(1 / 4)
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), [expected], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_number_an_example_that_no_other_example_changes(name):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
    targets = jnp.asarray(rng.dirichlet(np.ones(7), 5), jnp.float32)
    together = LOSSES[name](logits, targets)
    alone = [LOSSES[name](logits[i : i + 1], targets[i : i + 1])[0] for i in range(5)]
    assert together.shape == (5,)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_give_finite_losses(name):
    logits = jnp.array([[1e4, -1e4, 0.0]])
    right, wrong = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
    assert float(LOSSES[name](logits, right)[0]) < 1
    assert 1e3 < float(LOSSES[name](logits, wrong)[0]) < 1e5


def test_a_config_can_name_every_loss():
    assert default_config().training.loss in LOSSES
