import pytest

from resnet_jax.lab.estimate import Work, estimate, work_of


def test_ninety_epochs_of_imagenet_at_a_known_throughput_take_what_a_pocket_calculator_says():
    """90 x 1,281,167 = 115,305,030 images at 8 x 2,470 a second: 5,835.28 s; 90 x 50,000 / 3 at the same: 75.91 s."""
    work = work_of(90.0, 1_281_167, 50_000, size=224)
    found = estimate(work, 2470.0, 8, price=3.5)
    assert found.training_images == 115_305_030 and found.evaluation_images == 4_500_000
    assert 3600 * found.training_hours == pytest.approx(5835.28, abs=0.01)
    assert 3600 * found.evaluation_hours == pytest.approx(75.91, abs=0.01)
    assert found.device_hours == pytest.approx(8 * 5911.19 / 3600, rel=1e-5)
    assert found.cost == pytest.approx(45.98, abs=0.01)
    assert found.input_bound == 0


def test_an_image_costs_what_its_pixels_cost():
    """At 160 a second, 1,600 images take 10 s; and half of them at half the side a quarter of 5 s."""
    work = work_of(16.0, 100, 30, size=112, size_schedule=((8.0, 224),), eval_size=448, every_epochs=16, mirrored=True)
    assert work == Work(((112, 800.0), (224, 800.0)), 448, 60.0)
    found = estimate(work, 160.0)
    assert 3600 * found.training_hours == pytest.approx(6.25)
    assert 3600 * found.evaluation_hours == pytest.approx(60 / 3 * 4 / 160)


def test_the_input_limits_the_parts_that_it_is_slower_than():
    """Read at 200 a second, 800 images take 4 s: more than the small ones' 1.25 s, and less than the large ones' 5."""
    work = Work(((112, 800.0), (224, 800.0)), 224, 0.0)
    found = estimate(work, 160.0, input_images_per_second=200.0)
    assert 3600 * found.training_hours == pytest.approx(4 + 5)
    assert found.input_bound == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    "epochs, every, passes", [(10.0, 1, 10), (10.0, 3, 4), (9.0, 3, 3), (0.5, 1, 1), (24.0, 24, 1)]
)
def test_evaluations_are_every_so_many_epochs_and_at_the_end(epochs, every, passes):
    assert work_of(epochs, 100, 10, size=8, every_epochs=every).eval_images == 10 * passes


def test_a_size_that_comes_after_the_end_is_none():
    assert work_of(4.0, 10, 1, size=8, size_schedule=((2.0, 16), (6.0, 32))).training == ((8, 20.0), (16, 20.0))
    assert work_of(4.0, 10, 1, size=8, size_schedule=((0.0, 16),)).training == ((16, 40.0),)
