import json
import pathlib

import jax
import pytest

import main as command
from resnet_jax import runner
from resnet_jax.errors import ConfigError, DataError, Diverged, InUse
from resnet_jax.lab.sweep import Variant, sweep
from resnet_jax.lab.sweep_runner import run_sweep, state
from resnet_jax.run.interrupts import Interrupted
from tests import small


def config(labels=("a", "b", "c"), seeds=(0, 1), **fields):
    variants = [Variant(label=label, fields={"training.epochs": 1.0}, x=i) for i, label in enumerate(labels)]
    texts = dict(title="T", question="Q?", source="S", finding="F.", axis="x")
    return sweep(small.config(), variants, seeds=seeds, **texts | fields)


@pytest.fixture
def started(monkeypatch):
    """Names of the runs that were started; each one ends well unless `ends` names an error for it."""
    names, ends = [], {}

    def run(config, workdir, mode):
        folder = pathlib.Path(workdir)
        name = f"{folder.parent.name}/{folder.name}"
        names.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        if name in ends:
            if isinstance(ends[name], Diverged):
                (folder / "diverged.json").write_text("{}")
            raise ends[name]
        (folder / "summary.json").write_text(json.dumps({"top1": 0.9}))

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests use them
    run.names, run.ends = names, ends
    return run


def test_all_runs_are_made_once(started, tmp_path):
    assert run_sweep(config(), tmp_path, "train", None) == 0
    assert started.names == ["a/seed0", "b/seed0", "c/seed0", "a/seed1", "b/seed1", "c/seed1"]
    assert json.loads((tmp_path / "sweep.json").read_text())["title"] == "T"
    assert run_sweep(config(seeds=(0, 1, 2)), tmp_path, "train", None) == 0
    assert started.names[6:] == ["a/seed2", "b/seed2", "c/seed2"]


def test_one_run_or_one_variant_can_be_made(started, tmp_path):
    run_sweep(config(), tmp_path, "train", "4")
    run_sweep(config(), tmp_path, "train", "a")
    assert started.names == ["b/seed1", "a/seed0", "a/seed1"]


def test_what_fails_is_kept_and_does_not_stop_the_rest(started, tmp_path, capsys):
    started.ends |= {
        "a/seed0": Diverged("at step 3 the loss is nan", 3),
        "b/seed0": DataError("there are no data"),
        "c/seed0": RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more"),
        "a/seed1": InUse("it is in use by process 7"),
    }
    assert run_sweep(config(), tmp_path, "train", None) == 3
    assert [state(tmp_path / label / "seed0") for label in "abc"] == ["diverged", "failed", "failed"]
    assert json.loads((tmp_path / "b" / "seed0" / "failed.json").read_text())["error"] == "there are no data"
    kept = json.loads((tmp_path / "c" / "seed0" / "failed.json").read_text())
    assert kept["error"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory" and "Traceback" in kept["traceback"]
    assert "a/seed1 is left to another process" in capsys.readouterr().out
    started.ends.clear()
    assert run_sweep(config(), tmp_path, "train", None) == 1  # what diverged would diverge again
    assert started.names[6:] == ["b/seed0", "c/seed0", "a/seed1"]
    assert state(tmp_path / "b" / "seed0") == "done" and not (tmp_path / "b" / "seed0" / "failed.json").exists()


def test_a_stop_ends_the_sweep(started, tmp_path):
    started.ends["b/seed0"] = Interrupted("stopped", 15)
    with pytest.raises(Interrupted):
        run_sweep(config(), tmp_path, "train", None)
    assert started.names == ["a/seed0", "b/seed0"]


def test_hosts_join_for_one_run(started, tmp_path):
    several = config()
    several.base.parallel.coordinator = "auto"
    with pytest.raises(ConfigError, match="hosts join for one run only"):
        run_sweep(several, tmp_path, "train", None)
    assert run_sweep(several, tmp_path, "train", "a/seed1") == 0


def test_a_list_makes_no_run(started, tmp_path, capsys):
    assert run_sweep(config(), tmp_path / "none", "list", None) == 0
    assert not started.names and not (tmp_path / "none").exists()
    assert "2 new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("workdir", "mode", "said"),
    [(None, "train", "no folder is given for the sweep"), ("x", "eval", "--mode=eval needs one run of this sweep")],
)
def test_wrong_use_is_refused(started, workdir, mode, said):
    with pytest.raises(ConfigError, match=said):
        run_sweep(config(), workdir, mode, None)


def test_a_sweep_is_trained_by_the_command_and_refuses_another_config(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests use them
    file = tmp_path / "file.py"
    file.write_text("from tests.lab import test_sweep_runner\n\n\nget_config = test_sweep_runner.config\n")
    folder = tmp_path / "runs"
    arguments = ["main.py", f"--config={file}", f"--workdir={folder}", "--variant=b/seed1"]
    assert command.main([*arguments, "--config.base.training.steps=4"]) == 0
    assert "python -m resnet_jax report" in capsys.readouterr().out
    summary = json.loads((folder / "b" / "seed1" / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["multiply_adds"] > 0 and "cores" in summary["hardware"]
    assert command.main([*arguments, "--config.base.training.steps=5"]) == 2
    assert "another config (training.steps is 4 there and 5 now)" in capsys.readouterr().err
    assert command.main(["main.py", "--config=configs/digits.py", f"--workdir={folder}", "--variant=1"]) == 2
    assert "--variant and --mode=list need a sweep" in capsys.readouterr().err
