"""A network that BatchNorm would turn to zeros is refused before anything is written."""

import pytest

from resnet_jax import runner
from resnet_jax.errors import ConfigError
from resnet_jax.models.registry import create_model
from resnet_jax.setup import check_norms

SMALL = dict(stage_sizes=(1, 1, 1, 1), stage_widths=(4, 4, 4, 4), stem_width=4, num_classes=3)


@pytest.mark.parametrize(
    ("name", "fields", "image", "images", "refused"),
    [
        ("resnet18", SMALL, 32, 1, True),  # the last maps have one pixel
        ("resnet18", SMALL, 32, 2, False),
        ("resnet18", SMALL, 33, 1, False),  # they have 2x2, as every stage rounds up
        ("resnet18", SMALL | dict(norm_frozen=True), 32, 1, False),
        ("resnet18", SMALL | dict(norm_axis="devices"), 32, 1, False),
        ("cifar_resnet8", {}, 4, 1, True),
        ("densenet121", dict(block_sizes=(1, 1), growth_rate=4, stem_width=8), 8, 1, True),
        ("densenet121", dict(block_sizes=(1, 1), growth_rate=4, stem_width=8), 16, 1, False),
    ],
)
def test_one_value_a_channel_is_refused(name, fields, image, images, refused):
    model = create_model(name, **fields)
    if not refused:
        check_norms(model, (image, image, 3), images)
        return
    with pytest.raises(ConfigError, match=r"one value a channel.*larger images, more of them"):
        check_norms(model, (image, image, 3), images)


def test_a_start_with_one_value_a_channel_writes_nothing(tmp_path, small_config):
    small_config.training.batch_size, small_config.training.microbatches = 2, 2
    small_config.data.input_size = 2
    with pytest.raises(ConfigError, match="one value a channel"):
        runner.run(small_config, str(tmp_path / "run"), "train")
    assert not (tmp_path / "run" / "config.json").exists()
