"""Networks of equal cost: the base width that keeps the multiply-adds where the cardinality changes."""

import math


def matched_base_width(cardinality: int, complexity: int | float = 1, expansion: int = 4) -> int:
    """Return the channels per group, in a stage of width 64, with which a bottleneck costs `complexity` times 1x64d.

    With C groups of d channels between two maps of n = 64 `expansion` channels, a block has C (2 n d + 9 d^2) weights,
    and as many multiply-adds a pixel (Xie et al. 2017, arXiv:1611.05431, equation 4). Solved for d and rounded to an
    even number, as there: 40 for 2 groups, 24 for 4, 14 for 8, 4 for 32; at twice the complexity 100 for 1, 64 for 2
    and 4 for 64.

    Raises ValueError where not even a width of 2 is that cheap.
    """
    maps = 64 * expansion
    wanted = complexity * (2 * maps * 64 + 9 * 64**2) / cardinality
    width = (math.sqrt(maps**2 + 9 * wanted) - maps) / 9
    even = 2 * round(width / 2)
    if even < 2:
        raise ValueError(f"{cardinality} groups of 2 channels cost more than {complexity} times 1x64d")
    return even
