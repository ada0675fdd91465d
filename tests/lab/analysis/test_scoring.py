import numpy as np
import pytest

from resnet_jax.lab.analysis.scoring import scorer


@pytest.mark.parametrize("batch_size", [4, 5, 64])
def test_every_example_counts_once(batch_size):
    # The images are the logits; of ten, those of the labels 3 to 9 are seen as class 0.
    logits = np.zeros((10, 1, 1, 10), np.float32)
    logits[:, 0, 0, 0] = 1.0
    logits[:3, 0, 0, :3] = 3 * np.eye(3)
    nothing = 2.0 * np.eye(10, dtype=np.float32)[9]  # what an image of zeros, that fills a batch up, is seen as
    images = logits - nothing
    score = scorer(lambda added, images: images[:, 0, 0] + added, images, np.arange(10), batch_size)(nothing)
    assert score.error == pytest.approx(0.7)
    rest = np.log(np.e + 9) * 7
    first = sum(np.log(np.exp(row).sum()) - row.max() for row in logits[:3, 0, 0])
    assert score.loss == pytest.approx((rest + first) / 10, rel=1e-5)
