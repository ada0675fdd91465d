"""Write `old_run.tar.gz`: a run that an earlier commit stopped half way, its weights, and how that commit ended it.

    git worktree add /tmp/before 5d0acb6
    PYTHONPATH=/tmp/before python tests/golden/make_old_run.py

The archive has `stopped/` (a run directory at step 12 of 24), `weights.safetensors` (of that step, by `save_weights`),
`logits.npz` (of eight images by these weights) and `metrics.jsonl` (of the same run that was not stopped).
"""

import pathlib
import signal
import sys
import tarfile
import tempfile

import jax
import numpy as np

TREE = pathlib.Path(__import__("resnet_jax").__file__).parents[1]
sys.path.insert(0, str(TREE))
ARCHIVE = pathlib.Path(__file__).with_name("old_run.tar.gz")
FLAGS = [
    f"--config={TREE}/configs/digits.py",
    "--config.model.name=cifar_resnet8",
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(4,8)",
    "--config.model.overrides.stem_width=4",
    "--config.training.steps=24",
    "--config.training.batch_size=128",
    "--config.training.log_every=4",
    "--config.training.ema_decay=0.9",
    "--config.training.init_average=True",
    "--config.evaluation.every_epochs=1",
    "--config.parallel.devices=1",
]


def run(folder: pathlib.Path) -> None:
    """Train, and write everything."""
    import main
    from resnet_jax import checkpoints, create_model, load_weights, save_weights

    assert main.main(["main.py", *FLAGS, f"--workdir={folder / 'whole'}"]) == 0
    save = checkpoints.Checkpoints.save

    def stop(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)

    checkpoints.Checkpoints.save = stop
    assert main.main(["main.py", *FLAGS, f"--workdir={folder / 'stopped'}"]) == 130
    model = create_model("cifar_resnet8", stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4)
    variables = load_weights(model, str(folder / "stopped"), channels=1)
    save_weights(model, variables, folder / "weights.safetensors")
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    np.savez(folder / "logits.npz", images=images, logits=jax.device_get(model.apply(variables, images)))
    (folder / "metrics.jsonl").write_bytes((folder / "whole" / "metrics.jsonl").read_bytes())
    with tarfile.open(ARCHIVE, "w:gz") as archive:
        for name in ("weights.safetensors", "logits.npz", "metrics.jsonl"):
            archive.add(folder / name, name)
        for path in sorted((folder / "stopped").rglob("*")):
            if path.name not in (".lock", "curves.png") and "tensorboard" not in path.parts:
                archive.add(path, str(path.relative_to(folder)), recursive=False)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run(pathlib.Path(folder))
