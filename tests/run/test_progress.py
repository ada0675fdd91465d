import io
import re

import pytest

from resnet_jax.run import progress
from resnet_jax.run.progress import Progress, duration, final_line

METRICS = {"loss": 1.23456, "top1": 0.4567, "images_per_second": 1234.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """A known terminal, whatever the tests run in."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def plain(written):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)


def test_a_log_gets_whole_lines_without_control_codes():
    file = io.StringIO()
    with Progress(100, 10, file=file) as shown:
        shown.note("[bold]data[/bold] :+1:")
        shown.train(1, METRICS)
        shown.evaluation(10, {"split": "test_ema", "loss": 0.5, "top1": 0.875, "top5": 1.0})
    lines = file.getvalue().splitlines()
    assert lines[0] == "[bold]data[/bold] :+1:"
    assert lines[1].startswith("epoch 1/10  step 1/100  train  loss 1.2346  top-1 45.67%  1,23")
    assert lines[2] == "epoch 1/10  step 10/100  test_ema  loss 0.5000  top-1 87.50%  top-5 100.00%"
    assert len(lines) == 3
    assert re.fullmatch(r"[\n -~]*", file.getvalue())


def test_a_log_gets_a_training_line_every_ten_seconds_and_always_the_last(clock):
    file = io.StringIO()
    with Progress(100, 10, file=file) as shown:
        for step in range(1, 101):
            clock.now += 1
            shown.train(step, METRICS)
    steps = [int(step) for step in re.findall(r"step (\d+)/", file.getvalue())]
    assert steps == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]


def test_an_evaluation_and_the_end_are_preceded_by_the_latest_training_line(clock):
    file = io.StringIO()
    with Progress(100, 10, file=file) as shown:
        for step in (1, 2, 3):
            shown.train(step, METRICS)
        shown.evaluation(3, {"top1": 0.5})
        for step in (4, 5):
            shown.train(step, METRICS)
    assert re.findall(r"step (\d+)/100  (\w+)", file.getvalue()) == [
        ("1", "train"),
        ("3", "train"),
        ("3", "test"),
        ("5", "train"),
    ]


def test_each_line_of_a_log_is_flushed():
    class Watched(io.StringIO):
        unflushed = False

        def write(self, text):
            self.unflushed = True
            return super().write(text)

        def flush(self):
            self.unflushed = False

    file = Watched()
    with Progress(10, 10, file=file) as shown:
        shown.train(1, METRICS)
        assert "step 1" in file.getvalue()
        assert not file.unflushed


def test_the_time_left_of_a_resumed_run_follows_from_the_steps_of_this_start(clock):
    file = io.StringIO()
    with Progress(1000, 100, start_step=900, file=file) as shown:
        clock.now += 10
        shown.train(910, METRICS)  # 1 s a step: 90 s for the other 90
        clock.now += 20
        shown.train(920, METRICS)  # 2 s a step since the first report: 160 s for the other 80
    assert re.findall(r"elapsed  (.*) left", file.getvalue()) == ["1 min 30 s", "2 min 40 s"]


@pytest.mark.parametrize(
    ("total", "per_epoch", "step", "expected"),
    [
        (1000, 100, 0, "1/10"),
        (1000, 100, 100, "1/10"),
        (1000, 100, 101, "2/10"),
        (1000, 100, 1000, "10/10"),
        (977, 97.65625, 977, "10/10"),  # 10 epochs of 50,000 / 512 steps, rounded up
        (976, 97.65625, 976, "10/10"),
        (5, 100, 5, "1/1"),
    ],
)
def test_the_epoch_counts_from_one_to_the_number_of_epochs(total, per_epoch, step, expected):
    file = io.StringIO()
    with Progress(total, per_epoch, file=file) as shown:
        shown.train(step, METRICS)
    assert file.getvalue().startswith(f"epoch {expected}  ")


def test_a_terminal_of_80_columns_shows_every_field(clock):
    file = Terminal()
    with Progress(450_360, 5004, start_step=190_000, file=file) as shown:
        clock.now += 1000
        shown.train(190_360, METRICS)
    written = plain(file.getvalue())
    fields = ("epoch 39/90", "step 190360/450360", "loss 1.2346", "top-1 45.67%", "images/s", "0:00:0", "8 d 9 h left")
    assert [field for field in fields if field not in written] == []
    assert "━" in written
    assert "…" not in written


def test_a_terminal_shows_evaluations_and_notes_as_lines_above_the_bar():
    file = Terminal()
    with Progress(100, 10, file=file) as shown:
        shown.note("[bold]resumed[/bold] from step 5 " + "x" * 100)
        shown.evaluation(10, {"loss": None, "top1": 0.5})
    lines = plain(file.getvalue()).replace("\r", "\n").splitlines()
    assert "[bold]resumed[/bold] from step 5 " + "x" * 100 in lines
    evaluation = lines.index("epoch 1/10  step 10/100  test  loss nan  top-1 50.00%")
    assert any("0/100 ━" in line for line in lines[evaluation + 1 :])


def test_the_last_line_says_how_good_how_long_and_where():
    summary = {"top1": 0.76131, "top5": 0.9286, "eval_examples": 50000, "steps": 450360, "wall_seconds": 8040.0}
    assert final_line(summary, "runs/resnet50") == (
        "top-1 76.13%, top-5 92.86% on 50,000 examples after 450,360 steps in 2 h 14 min; "
        "metrics, checkpoints and curves are in runs/resnet50"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.7, "1 h 0 min"),
        (8040, "2 h 14 min"),
        (86399, "1 d 0 h"),
        (97200, "1 d 3 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds, expected):
    assert duration(seconds) == expected
