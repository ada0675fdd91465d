import pytest

from resnet_jax.models.flops import matched_base_width


@pytest.mark.parametrize(
    ("cardinality", "complexity", "paper"),
    [(1, 1, 64), (2, 1, 40), (4, 1, 24), (8, 1, 14), (32, 1, 4), (1, 2, 100), (2, 2, 64), (64, 2, 4)],
)
def test_the_width_is_that_of_the_resnext_paper(cardinality, complexity, paper):
    """Xie et al. 2017, tables 2, 3 and 4."""
    assert matched_base_width(cardinality, complexity) == paper


def test_groups_that_cannot_be_that_cheap_are_refused():
    with pytest.raises(ValueError, match="1000 groups of 2 channels cost more"):
        matched_base_width(1000)
