import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training import metrics
from resnet_jax.training.metrics import Sums


def rank(logits, labels):
    return np.asarray(metrics.rank(jnp.asarray(logits), jnp.asarray(labels)))


def count(*arrays):
    return metrics.count(*map(jnp.asarray, arrays))


def sums_of(loss, top1, top5, examples):
    totals = {"loss": jnp.float32(loss), "top1": jnp.int32(top1), "top5": jnp.int32(top5)}
    return Sums(totals, jnp.int32(examples))


def ranks_by_sorting(logits, labels):
    """The place of each label among the classes by falling logit; a stable sort gives ties to the lower class."""
    order = np.argsort(-logits, axis=1, kind="stable")
    return np.argmax(order == labels[:, None], axis=1)


def random_batch(seed, batch=64, classes=11, levels=None):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, classes)) if levels is None else rng.integers(0, levels, (batch, classes))
    return logits.astype(np.float32), rng.integers(0, classes, batch).astype(np.int32)


@pytest.mark.parametrize("levels", [None, 2, 4], ids=["distinct", "many ties", "some ties"])
def test_rank_is_the_place_in_a_stable_sort(levels):
    logits, labels = random_batch(0, levels=levels)
    np.testing.assert_array_equal(rank(logits, labels), ranks_by_sorting(logits, labels))


def test_ties_go_to_the_lower_class():
    logits = np.zeros((4, 4), np.float32)
    np.testing.assert_array_equal(rank(logits, np.arange(4)), [0, 1, 2, 3])


def test_infinite_logits_are_ranked_like_any_others():
    logits = np.array([[0, np.inf, -np.inf], [np.inf, np.inf, 0], [-np.inf, -np.inf, 0]], np.float32)
    for label, expected in enumerate([(1, 0, 1), (0, 1, 2), (2, 2, 0)]):
        np.testing.assert_array_equal(rank(logits, np.full(3, label)), expected)


def test_a_logit_that_is_no_number_is_never_hit_and_comes_before_all_others():
    nan = np.nan
    logits = np.array([[nan, 1, 0], [nan, 1, 0], [nan, nan, nan], [2, nan, 1]], np.float32)
    ranks = rank(logits, np.array([0, 1, 2, 0]))
    assert ranks[0] >= 3 and ranks[2] >= 3
    np.testing.assert_array_equal(ranks[[1, 3]], [1, 1])


@pytest.mark.parametrize("classes", [5, 10])
def test_a_network_of_no_numbers_has_no_hits_among_five_classes_or_more(classes):
    logits, labels = np.full((8, classes), np.nan, np.float32), np.zeros(8, np.int32)
    sums = count(logits, labels, np.zeros(8, np.float32), np.ones(8, bool))
    assert (int(sums.totals["top1"]), int(sums.totals["top5"]), int(sums.examples)) == (0, 0, 8)


@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
def test_top1_and_top5_are_those_of_a_stable_sort_over_the_valid_examples(levels):
    logits, labels = random_batch(1, levels=levels)
    valid = np.random.default_rng(2).random(len(labels)) < 0.6
    losses = np.random.default_rng(3).random(len(labels)).astype(np.float32)
    sums = count(logits, labels, losses, valid)
    ranks = ranks_by_sorting(logits, labels)[valid]
    assert int(sums.totals["top1"]) == np.sum(ranks == 0)
    assert int(sums.totals["top5"]) == np.sum(ranks <= 4)
    assert int(sums.examples) == np.sum(valid)
    np.testing.assert_allclose(sums.totals["loss"], losses[valid].sum(dtype=np.float64), rtol=1e-6)


def test_rows_that_are_not_valid_count_nothing_even_if_their_numbers_are_none():
    logits, labels = random_batch(4, batch=4)
    valid = np.array([True, False, True, False])
    spoiled = np.where(valid[:, None], logits, np.nan)
    losses = np.array([1, np.nan, 2, np.inf], np.float32)
    sums = count(spoiled, labels, losses, valid)
    assert (float(sums.totals["loss"]), int(sums.examples)) == (3.0, 2)
    assert int(sums.totals["top1"]) == np.sum(ranks_by_sorting(logits, labels)[valid] == 0)


def test_the_sums_of_parts_add_up_to_those_of_the_whole():
    logits, labels = random_batch(5, batch=60)
    losses = np.random.default_rng(6).integers(0, 8, 60).astype(np.float32)  # whole, so that float32 sums are exact
    valid = np.random.default_rng(7).random(60) < 0.5
    parts = [slice(0, 1), slice(1, 25), slice(25, 60)]
    added = sum((count(logits[p], labels[p], losses[p], valid[p]) for p in parts), start=Sums.none())
    whole = count(logits, labels, losses, valid)
    jax.tree.map(np.testing.assert_array_equal, added, whole)
    assert all(
        np.asarray(counted).dtype == np.int32
        for counted in (added.totals["top1"], added.totals["top5"], added.examples)
    )


def test_counts_beyond_what_float32_can_hold_stay_exact():
    most = sums_of(0, 2**24, 2**24, 2**24)
    one = sums_of(0, 1, 1, 1)
    assert int((most + one).totals["top1"]) == 2**24 + 1
    assert (most + one).means()["top1"] == 1.0


def test_means_are_fractions_and_the_loss_per_example():
    means = sums_of(10, 1, 3, 4).means()
    assert means == {"loss": 2.5, "top1": 0.25, "top5": 0.75}
