import dataclasses
import json

import jax
import numpy as np
import pytest

from resnet_jax import runner
from resnet_jax.config import to_dict
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import CheckpointError, ConfigError, Diverged
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.interrupts import Interrupted, Interrupts
from resnet_jax.run.metrics import read_metrics
from resnet_jax.setup import build
from resnet_jax.training.loop import dispatches, is_due, next_due
from tests import small


def final_state(config, folder):
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    state = jax.device_get(checkpoints.restore(build(config).initial_state()))
    checkpoints.close()
    return state


def records(folder):
    """The records of a run without what a clock said."""
    timed = ("wall_seconds", "images_per_second")
    return [{k: v for k, v in record.items() if k not in timed} for record in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped: its folder and summary."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, runner.run(small.config(), folder, "train")


class InterruptAfter(Interrupts):
    """Asks to stop once it has been looked at a number of times."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    @property
    def requested(self):
        self._looks -= 1
        if self._looks == 0:
            self._number = 15
        return bool(self._number)


@pytest.mark.parametrize("looks", [8, 24])  # while a step runs, and while an evaluation does
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(
    whole, small_config, tmp_path, monkeypatch, looks
):
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Interrupts", lambda: InterruptAfter(looks))
        with pytest.raises(Interrupted, match="resumes there"):
            runner.run(small_config, folder, "train")
    saved = [int(step.name) for step in (folder / "checkpoints").iterdir()]
    assert 0 < max(saved) < 45
    runner.run(small_config, folder, "train")
    jax.tree.map(np.testing.assert_array_equal, final_state(small_config, whole[0]), final_state(small_config, folder))
    tests = [[record for record in records(path) if record["split"] != "train"] for path in (whole[0], folder)]
    assert tests[0] == tests[1]


def test_a_finished_run_that_is_started_again_changes_nothing(whole, small_config):
    folder, summary = whole
    before = (folder / "metrics.jsonl").read_bytes()
    assert runner.run(small_config, folder, "train") == summary
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_leaves_what_users_rely_on(whole, small_config):
    folder, summary = whole
    written = json.loads((folder / "summary.json").read_text())
    assert written.keys() >= {"top1", "top5", "loss", "top1_ema", "eval_examples", "steps", "params", "versions"}
    assert written.keys() >= {"images_per_second", "wall_seconds"}
    assert written["eval_examples"] == len(open_dataset("digits", image_size=8).test) and written["steps"] == 45
    train = [record for record in read_metrics(folder / "metrics.jsonl") if record["split"] == "train"]
    assert train[-1].keys() >= {"step", "epoch", "loss", "top1", "top5", "learning_rate", "images_per_second"}
    # Cosine over 45 steps: the record of step 5 is that of the step which had done 4.
    np.testing.assert_allclose(train[0]["learning_rate"], 0.05 * (1 + np.cos(np.pi * 4 / 45)), rtol=1e-3)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "conv1/kernel" in (folder / "parameters.txt").read_text()
    assert list((folder / "tensorboard").iterdir())
    assert json.loads((folder / "config.json").read_text())["model"]["overrides"]["stem_width"] == 8
    assert summary["top1"] > 0.3


def test_evaluation_of_a_run_gives_what_training_gave_at_its_end(whole, small_config):
    folder, summary = whole
    small_config.evaluation.batch_size = 50
    evaluated = runner.run(small_config, folder, "eval")
    for name in ("top1", "top5", "top1_ema", "eval_examples", "steps", "params"):
        assert evaluated[name] == summary[name]
    np.testing.assert_allclose(evaluated["loss"], summary["loss"], rtol=1e-5)


def test_evaluation_of_a_weights_file_needs_no_run(whole, small_config, tmp_path):
    from resnet_jax import load_weights, save_weights

    folder, summary = whole
    state = final_state(small_config, folder)
    model = build(small_config).model
    save_weights(model, {"params": state.params, "batch_stats": state.batch_stats}, tmp_path / "w.safetensors")
    assert load_weights(model, tmp_path / "w.safetensors").keys() == {"params", "batch_stats"}
    small_config.training.init_from = str(tmp_path / "w.safetensors")
    assert runner.run(small_config, tmp_path / "elsewhere", "eval")["top1"] == summary["top1"]


def test_a_folder_of_another_config_is_refused_with_the_difference(whole, small_config):
    small_config.optimizer.learning_rate = 0.2
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate is 0.1 there and 0.2 now"):
        runner.run(small_config, whole[0], "train")


def test_evaluation_without_a_run_or_a_checkpoint_says_so(small_config, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        runner.run(small_config, tmp_path / "none", "eval")
    record = runner.RunDirectory(tmp_path / "empty")
    record.open_for(to_dict(small_config))
    record.begin(to_dict(small_config))
    record.close()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        runner.run(small_config, tmp_path / "empty", "eval")


def test_a_loss_that_is_no_number_stops_the_run_with_step_checkpoint_and_advice(small_config, tmp_path):
    small_config.optimizer.learning_rate = 1e30
    with pytest.raises(Diverged, match=r"(?s)at step \d+ the loss is .*no checkpoint yet.*learning_rate"):
        runner.run(small_config, tmp_path / "run", "train")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_late_divergence_keeps_the_last_good_checkpoint(small_config, tmp_path):
    small_config.schedule.name = "step"
    small_config.schedule.boundaries = (1.5,)
    small_config.schedule.factor = 1e30
    small_config.evaluation.every_epochs = 3  # what is saved at step 30 would be saved without an evaluation
    with pytest.raises(Diverged, match=r"at step (2[4-9]|30) the loss is .*checkpoint is that of step 15"):
        runner.run(small_config, tmp_path / "run", "train")
    state = final_state(small_config, tmp_path / "run")
    assert int(state.step) == 15 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_transfer_that_nobody_asked_for_is_an_error(small_config, tmp_path, monkeypatch):
    def build_with_host_rows(config, mode, begun):
        trainer = build(config)
        sneaky = lambda state, data, rows, key: trainer.train_program(state, data, jax.device_get(rows), key)  # noqa: E731
        return dataclasses.replace(trainer, train_program=sneaky)

    monkeypatch.setattr(runner, "build", build_with_host_rows)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        runner.run(small_config, tmp_path / "run", "train")


def test_dispatches_from_any_mark_are_those_of_the_whole_run(small_config):
    small_config.training.steps_per_call = 4
    trainer = build(small_config)
    whole = list(dispatches(trainer, 0))
    assert whole[0][0] == 0 and whole[-1][1] == trainer.total_steps
    assert all(0 < end - start <= 4 for start, end in whole)
    for start, _ in whole:
        assert list(dispatches(trainer, start)) == [cut for cut in whole if cut[0] >= start]


def test_epochs_end_at_the_first_step_that_has_seen_all_of_their_examples(small_config):
    trainer = build(small_config)
    examples = trainer.train_loader.order.examples
    ends = [step for step in range(1, 46) if is_due(step, trainer.epoch_steps, 45)]
    assert ends == [-(-epoch * examples // 96) for epoch in (1, 2, 3)]
    assert next_due(0, 2 * trainer.epoch_steps) == -(-2 * examples // 96)


def test_evaluations_and_checkpoints_come_every_so_many_steps_where_the_config_says_so(small_config, tmp_path):
    small_config.training.steps = 20
    small_config.evaluation.every_steps = 8
    small_config.checkpoint.every_steps = 5
    small_config.checkpoint.keep_latest = 10
    runner.run(small_config, tmp_path / "run", "train")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    evaluated = [record["step"] for record in records if record["split"] == "test"]
    assert evaluated == [8, 16, 20]
    saved = {int(step.name) for step in (tmp_path / "run" / "checkpoints").iterdir() if step.name.isdigit()}
    assert saved == {5, 8, 10, 15, 16, 20}


def test_several_steps_a_dispatch_train_as_one_at_a_time(small_config, tmp_path):
    small_config.training.steps = 6
    one = runner.run(small_config, tmp_path / "one", "train")
    small_config.training.steps_per_call = 3
    three = runner.run(small_config, tmp_path / "three", "train")
    np.testing.assert_allclose(one["loss"], three["loss"], rtol=1e-3)
