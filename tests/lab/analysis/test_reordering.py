import numpy as np
import pytest

from resnet_jax.lab.analysis.reordering import exchangeable, kendall, reorder, reorder_at_random
from tests.lab.analysis.networks import small


def test_kendalls_tau_counts_pairs_in_order_less_those_that_are_not():
    assert kendall([0, 1, 2, 3]) == pytest.approx(1)
    assert kendall([3, 2, 1, 0]) == pytest.approx(-1)
    assert kendall([1, 0, 2, 3]) == pytest.approx(4 / 6)
    assert kendall([2, 1, 0, 3]) == pytest.approx(0)


def test_only_blocks_of_one_stage_and_shape_change_places():
    model, variables, images, _ = small("post-activation", (2, 3), stage_widths=(4, 4), shortcut="A")
    assert exchangeable(model, variables, images) == [
        ["stage1_block1", "stage1_block2"],
        ["stage2_block2", "stage2_block3"],
    ]


def test_swapping_equal_blocks_changes_nothing_and_swapping_others_does():
    model, variables, images, labels = small("post-activation", (3,))
    whole, swapped = reorder_at_random(model, variables, images, labels, [1], draws=2, seed=0)
    assert all(abs(one.score.loss - whole.loss) > 1e-3 for one in swapped)
    assert all(one.correlation in (pytest.approx(1 / 3), pytest.approx(-1)) for one in swapped)
    equal = {
        kind: trees | {f"stage1_block{i}": trees["stage1_block1"] for i in (2, 3)} for kind, trees in variables.items()
    }
    whole, swapped = reorder_at_random(model, equal, images, labels, [1, 2], draws=2, seed=0)
    assert [one.swaps for one in swapped] == [1, 1, 2, 2]
    assert {one.score for one in swapped} == {whole}


def test_a_block_takes_parameters_and_statistics_to_its_new_place():
    _, variables, _, _ = small("post-activation", (2,))
    moved = reorder(variables, {"stage1_block1": "stage1_block2", "stage1_block2": "stage1_block1"})
    for kind, path in (("params", ("conv1", "kernel")), ("batch_stats", ("bn1", "mean"))):
        there, here = (tree[kind]["stage1_block1"][path[0]][path[1]] for tree in (moved, variables))
        assert not np.array_equal(there, here)
        np.testing.assert_array_equal(there, variables[kind]["stage1_block2"][path[0]][path[1]])
