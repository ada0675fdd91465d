import numpy as np
import pytest

from resnet_jax.data.resizing import mirror


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mirror_image_has_its_columns_in_reverse(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    np.testing.assert_array_equal(mirror(image), image[:, ::-1])
