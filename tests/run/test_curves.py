import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from resnet_jax.errors import UserError
from resnet_jax.run.curves import draw_curves


def train(step, loss=1.0, top1=0.5):
    return {"step": step, "epoch": step / 10, "split": "train", "loss": loss, "top1": top1, "learning_rate": 0.1}


def evaluation(step, split="test", loss=1.0, top1=0.5):
    return {"step": step, "epoch": step / 10, "split": split, "loss": loss, "top1": top1, "top5": 0.9}


RUNS = {
    "nothing": [],
    "one_training_point": [train(1)],
    "one_evaluation_at_epoch_0": [evaluation(0)],
    "no_evaluation": [train(step, math.exp(-step / 30)) for step in range(1, 200)],
    "evaluations_only": [evaluation(step) for step in range(10, 100, 10)],
    "losses_that_were_not_finite": [train(step, None, 0.1) for step in range(1, 200)],
    "one_finite_loss": [train(1), *(train(step, None, None) for step in range(2, 20))],
    "zero_loss": [train(step, max(0.0, 2 - step / 10), 1.0) for step in range(1, 50)],
    "wide_span": [train(step, 10.0 ** (6 - step / 5)) for step in range(1, 101)],
    "all": [
        r
        for s in range(1, 300)
        for r in (train(s, 3 / s), evaluation(s), evaluation(s, "test_ema", loss=2 / s, top1=0.7))
    ],
}


@pytest.mark.parametrize("metrics", RUNS.values(), ids=RUNS)
def test_every_run_gives_a_picture(tmp_path, metrics):
    file = tmp_path / "curves.png"
    draw_curves(metrics, file, "a $title$ of {braces} and 100%")
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(file)[..., :3]
    assert picture.shape[1] > 2 * picture.shape[0]
    assert 0.005 < np.mean(picture.min(axis=-1) < 0.95) < 0.5


@pytest.fixture
def drawn(monkeypatch):
    """Label to the values of each labelled line, as they reach matplotlib."""
    lines = {}
    plot = Axes.plot

    def recorded(axes, epochs, values, **kwargs):
        if "label" in kwargs:
            lines[kwargs["label"]] = values
        return plot(axes, epochs, values, **kwargs)

    monkeypatch.setattr(Axes, "plot", recorded)
    return lines


def test_the_legend_gives_where_each_line_ends(tmp_path, drawn):
    metrics = [
        train(1),
        train(2, 0.25, 0.9),
        evaluation(2, loss=0.5, top1=0.8765),
        evaluation(2, "test_ema", loss=0.4, top1=0.9),
    ]
    draw_curves([*metrics, train(3, None, None)], tmp_path / "curves.png", "title")
    assert set(drawn) == {
        *("train 0.2500", "test 0.5000", "test, EMA 0.4000"),
        *("train 90.00", "test 87.65", "test, EMA 90.00"),
    }


def test_many_training_points_are_smoothed_and_evaluations_never(tmp_path, drawn):
    noise = np.random.default_rng(0).normal(size=2000)
    metrics = [train(step, 5 + value) for step, value in enumerate(noise)]
    metrics += [evaluation(step, loss=5 + value) for step, value in enumerate(noise)]
    draw_curves(metrics, tmp_path / "curves.png", "title")
    smooth = next(values for label, values in drawn.items() if label.startswith("train"))
    assert smooth.std() < 0.3 * noise.std()
    assert abs(smooth.mean() - 5) < 0.1
    np.testing.assert_array_equal(drawn[f"test {5 + noise[-1]:.4f}"], 5 + noise)


def test_smoothing_keeps_a_constant_to_both_ends(tmp_path, drawn):
    draw_curves([train(step, 2.0) for step in range(1000)], tmp_path / "curves.png", "title")
    np.testing.assert_allclose(drawn["train 2.0000"], 2.0)


def test_a_folder_that_does_not_exist_is_an_error_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        draw_curves([train(1)], tmp_path / "missing" / "curves.png", "title")
