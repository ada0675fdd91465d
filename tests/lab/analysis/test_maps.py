import jax
import numpy as np

from resnet_jax.lab.analysis.maps import liveliest_maps
from tests.lab.analysis.networks import small


def test_the_maps_that_differ_most_over_the_image_are_shown():
    model, variables, images, _ = small("pre-activation", (1, 1), stage_widths=(4, 8))
    found = liveliest_maps(model, variables, np.asarray(images[0]), 3)
    features = jax.jit(lambda images: model.apply(variables, images, method="features"))(images)
    assert list(found) == ["stem", "stage1", "stage2"]
    for name, stage in found.items():
        maps = np.asarray(features[name][0])
        assert stage.total == maps.shape[-1]
        deviations = maps.std(axis=(0, 1))
        assert stage.channels == sorted(range(stage.total), key=lambda channel: -deviations[channel])[:3]
        for channel, values in zip(stage.channels, stage.maps, strict=True):
            np.testing.assert_allclose(values, maps[..., channel], rtol=1e-4, atol=1e-5)
