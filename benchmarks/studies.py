"""Run the sweeps of one scale, keep their records without checkpoints, and write the report of them.

    python benchmarks/studies.py --scale=digits --out=results/studies
    python benchmarks/studies.py --scale=cifar10 --out=results/studies_cifar10 --sweeps=depth,degradation
        [--path=FOLDER] [--config.seeds=(0,1,2)] [--config.base.any.field=value ...]

Runs that are done are not repeated, and one that was stopped goes on. On the digits all sweeps take about an hour of
one CPU core. CIFAR-10 needs a GPU: on two cores one ResNet-20 by the full recipe would take about eleven hours
(extrapolated from 205 images a second).
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT = ("sweep.json", "config.json", "metrics.jsonl", "summary.json", "diverged.json", "failed.json")
NORM_SCOPE_DEVICES = "--xla_force_host_platform_device_count=8"  # where there are fewer than 8, a CPU plays them


def keep(runs: pathlib.Path, out: pathlib.Path) -> None:
    """Copy the records of a sweep."""
    for file in sorted(runs.rglob("*.json*")):
        if file.name in KEPT:
            kept = out / file.relative_to(runs)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)


def main() -> None:
    """Run, keep and report."""
    shipped = sorted(file.stem for file in (ROOT / "configs" / "sweeps").glob("*.py") if file.stem != "scales")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "studies")
    parser.add_argument("--sweeps", default=",".join(shipped))
    parser.add_argument("--path", help="folder of the data, if they are not to be downloaded")
    values, extra = parser.parse_known_args()
    if values.path:
        extra.append(f"--config.base.data.path={values.path}")
    failed = []
    for name in values.sweeps.split(","):
        workdir = values.runs / values.scale / name
        command = [sys.executable, "main.py", f"--config=configs/sweeps/{name}.py:{values.scale}"]
        flags = os.environ.get("XLA_FLAGS", "")
        environment = os.environ | {
            "XLA_FLAGS": f"{flags} {NORM_SCOPE_DEVICES}".strip() if name == "norm_scope" else flags
        }
        code = subprocess.run([*command, f"--workdir={workdir}", *extra], cwd=ROOT, env=environment).returncode
        if code > 2:
            sys.exit(code)  # stopped: the same command goes on
        if code:
            failed.append(name)
        if workdir.exists():
            keep(workdir, values.out / name)
    report = [sys.executable, "-m", "resnet_jax", "report", str(values.out), f"--out={values.out / 'report.html'}"]
    subprocess.run(report, cwd=ROOT, check=True)
    if failed:
        sys.exit(f"not all runs of {', '.join(failed)} are done; see above.")


if __name__ == "__main__":
    main()
