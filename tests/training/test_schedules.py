import math
import pathlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training.schedules import SCHEDULES, create_schedule, scaled_peak

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch_training.npz"

# Examples and global batch sizes of data sets that are trained on; steps an epoch are whole for some only.
EPOCHS = [
    (50_000, 128),
    (50_000, 100),
    (1_281_167, 256),
    (1_281_167, 1024),
    (1_281_167, 2048),
    (1438, 64),
    (60_000, 96),
]


def golden(*names):
    with np.load(GOLDEN) as file:
        return [file[name] for name in names]


def rates(schedule, steps):
    """The rates at steps, by one compiled program, as an optimizer has them."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32)))


def test_the_cifar_recipe_has_the_rates_of_torchs_multistep_at_every_step_around_its_boundaries():
    steps, expected = golden("multistep_steps", "multistep_rates")
    per_epoch = 50_000 / 128
    schedule = create_schedule(
        "step", peak=0.1, steps_per_epoch=per_epoch, epochs=64_000 / per_epoch, boundaries=(81.92, 122.88)
    )
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-6)


@pytest.mark.parametrize("step_per_epoch", [False, True])
def test_torchvisions_first_recipe_has_the_rates_of_torchs_step_schedule_at_every_epoch(step_per_epoch):
    (expected,) = golden("step_rates")
    schedule = create_schedule(
        "step", peak=0.1, steps_per_epoch=5004.0, epochs=90.0, boundaries=(30.0, 60.0), step_per_epoch=step_per_epoch
    )
    epochs = np.arange(90)
    np.testing.assert_allclose(rates(schedule, epochs * 5004), expected, rtol=1e-6)
    np.testing.assert_allclose(rates(schedule, epochs * 5004 + 5003), expected, rtol=1e-6)


@pytest.mark.parametrize("per_epoch", [1251, 1252, 5004])
def test_torchvisions_second_recipe_has_the_rates_of_torchs_warm_up_and_cosine_at_every_epoch(per_epoch):
    (expected,) = golden("cosine_rates")
    schedule = create_schedule(
        "cosine",
        peak=0.5,
        steps_per_epoch=float(per_epoch),
        epochs=600.0,
        warmup_epochs=5.0,
        warmup_start=0.01,
        step_per_epoch=True,
    )
    epochs = np.arange(600)
    for step in (0, 1, per_epoch // 2, per_epoch - 1):
        np.testing.assert_allclose(rates(schedule, epochs * per_epoch + step), expected, rtol=1e-5, atol=2e-7)


def test_procedure_a2_has_the_rates_of_timms_cosine_at_every_epoch():
    (expected,) = golden("timm_rates")
    schedule = create_schedule(
        "cosine",
        peak=5e-3,
        steps_per_epoch=625.0,
        epochs=300.0,
        warmup_epochs=5.0,
        warmup_start=1e-4 / 5e-3,
        end=1e-6,
        warmup_overlaps=True,
        step_per_epoch=True,
    )
    epochs = np.arange(300)
    for step in (0, 624):
        np.testing.assert_allclose(rates(schedule, epochs * 625 + step), expected, rtol=1e-5, atol=2e-9)


def around(boundary):
    """The last step that is surely before a boundary, given in steps, and the first that has surely reached it.

    A step that is less than a tenth short of the boundary may be taken for either.
    """
    return math.ceil(boundary - Fraction(1, 10)) - 1, math.ceil(boundary)


@pytest.mark.parametrize("examples, batch_size", EPOCHS)
def test_a_step_schedule_falls_at_the_first_step_that_has_done_the_epochs_but_for_a_tenth_of_a_step(
    examples, batch_size
):
    boundaries = (30.0, 60.0, 80.0)
    schedule = create_schedule(
        "step", peak=1.0, steps_per_epoch=examples / batch_size, epochs=90.0, boundaries=boundaries
    )
    for passed, boundary in enumerate(boundaries):
        last_before, first = around(int(boundary) * Fraction(examples, batch_size))
        np.testing.assert_allclose(rates(schedule, [last_before, first]), [0.1**passed, 0.1 ** (passed + 1)], rtol=1e-5)


@pytest.mark.parametrize("examples, batch_size", EPOCHS)
def test_a_rate_by_epoch_changes_at_the_first_step_of_each_epoch_or_one_before(examples, batch_size):
    epochs = 600
    per_epoch = Fraction(examples, batch_size)
    schedule = create_schedule(
        "linear", peak=float(epochs), steps_per_epoch=examples / batch_size, epochs=float(epochs), step_per_epoch=True
    )
    firsts = np.array([math.ceil(epoch * per_epoch) for epoch in range(1, epochs)])
    expected = epochs - np.arange(1.0, epochs)  # the rate of an epoch is the number of those left
    np.testing.assert_allclose(rates(schedule, firsts), expected, rtol=1e-5)
    np.testing.assert_allclose(rates(schedule, firsts - 2), expected + 1, rtol=1e-5)


def test_boundaries_given_as_steps_over_steps_an_epoch_fall_at_exactly_these_steps():
    for examples, batch_size in EPOCHS:
        per_epoch = examples / batch_size
        for step in (1, 2, 999, 32_000, 48_000, 123_457):
            schedule = create_schedule(
                "step", peak=1.0, steps_per_epoch=per_epoch, epochs=1000.0, boundaries=(step / per_epoch,)
            )
            np.testing.assert_allclose([schedule(step - 1), schedule(step)], [1.0, 0.1], rtol=1e-6)


def test_warm_up_rises_in_equal_steps_to_the_peak_and_meets_what_follows():
    schedule = create_schedule(
        "constant", peak=2.0, steps_per_epoch=10.0, epochs=5.0, warmup_epochs=2.0, warmup_start=0.25
    )
    expected = np.concatenate([np.linspace(0.5, 2.0, 21), np.full(5, 2.0)])
    np.testing.assert_allclose(rates(schedule, np.arange(26)), expected, rtol=1e-6)


def test_warm_up_from_nothing_has_no_rate_at_the_first_step():
    schedule = create_schedule("cosine", peak=1.0, steps_per_epoch=10.0, epochs=5.0, warmup_epochs=1.0)
    np.testing.assert_allclose(rates(schedule, [0, 1, 9, 10]), [0.0, 0.1, 0.9, 1.0], rtol=1e-6)


def test_boundaries_count_from_the_start_of_the_run_and_not_from_the_end_of_warm_up():
    schedule = create_schedule(
        "step", peak=1.0, steps_per_epoch=10.0, epochs=9.0, boundaries=(3.0, 6.0), factor=0.5, warmup_epochs=2.0
    )
    np.testing.assert_allclose(rates(schedule, [20, 29, 30, 59, 60]), [1, 1, 0.5, 0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_cosine_and_linear_go_from_the_peak_through_the_middle_to_the_end_and_stay(name):
    schedule = create_schedule(name, peak=1.0, steps_per_epoch=8.0, epochs=10.0, warmup_epochs=2.0, end=0.2)
    found = rates(schedule, [16, 48, 80, 90])
    np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)


def test_a_quarter_of_the_way_cosine_is_above_linear():
    cosine, linear = (
        create_schedule(name, peak=1.0, steps_per_epoch=8.0, epochs=10.0) for name in ("cosine", "linear")
    )
    np.testing.assert_allclose([cosine(20), linear(20)], [0.5 + math.sqrt(0.5) / 2, 0.75], rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_is_a_float32_scalar_of_a_traced_or_a_plain_step(name):
    schedule = create_schedule(
        name, peak=0.1, steps_per_epoch=7.5, epochs=3.0, boundaries=(1.0, 2.0), warmup_epochs=1.0
    )
    for step in range(25):
        traced = jax.jit(schedule)(jnp.int32(step))
        assert traced.shape == () and traced.dtype == jnp.float32
        np.testing.assert_allclose(traced, schedule(step), rtol=1e-5)


@pytest.mark.parametrize(
    "base, batch_size, base_batch_size, expected",
    [(0.1, 256, 256, 0.1), (0.1, 8192, 256, 3.2), (0.1, 64, 256, 0.025), (0.1, 8192, 0, 0.1)],
)
def test_the_peak_is_in_proportion_to_the_batch_unless_no_base_is_given(base, batch_size, base_batch_size, expected):
    assert scaled_peak(base, batch_size, base_batch_size) == pytest.approx(expected)


def test_an_unknown_schedule_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'cosin'.*did you mean 'cosine'\?.*constant, step, cosine, linear"):
        create_schedule("cosin", peak=0.1, steps_per_epoch=1.0, epochs=1.0)
