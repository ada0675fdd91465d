"""Train the CIFAR-10 networks of He et al. 2015 by their full recipe, and compare the last epoch with their table 6.

    python benchmarks/cifar_table.py --out=results/he2015 [--networks=resnet20,resnet32,resnet44,resnet56]
        [--seeds=0,1,2] [--path=FOLDER] [--config.any.field=value ...]

Each run is one of `configs/cifar10.py`; a run that is done is not repeated, and one that was stopped goes on. The
record of each, without its checkpoints, is kept in OUT, with `table.json` and the table that is printed. It needs a
GPU: on two CPU cores one ResNet-20 would take about eleven hours (extrapolated from 205 images a second).
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAPER = {"resnet20": 8.75, "resnet32": 7.51, "resnet44": 7.17, "resnet56": 6.97, "resnet110": 6.43, "resnet1202": 7.93}
KEPT = ("config.json", "metrics.jsonl", "summary.json", "curves.png")


def run(network: str, seed: int, runs: pathlib.Path, out: pathlib.Path, extra: list[str]) -> float:
    """Train one network to the end, keep its record, and return its test error in percent."""
    workdir = runs / f"he2015_{network}_{seed}"
    command = [sys.executable, "main.py", f"--config=configs/cifar10.py:{network}", f"--workdir={workdir}"]
    subprocess.run([*command, f"--config.training.seed={seed}", *extra], cwd=ROOT, check=True)
    kept = out / f"{network}_{seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(workdir / name, kept / name)
    return 100 * (1 - json.loads((workdir / "summary.json").read_text())["top1"])


def main() -> None:
    """Train all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs")
    parser.add_argument("--networks", default="resnet20,resnet32,resnet44,resnet56")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--path", default=None, help="folder of CIFAR-10, if it is not to be downloaded")
    values, extra = parser.parse_known_args()
    if values.path:
        extra.append(f"--config.data.path={values.path}")
    rows = []
    for network in values.networks.split(","):
        errors = [run(network, int(seed), values.runs, values.out, extra) for seed in values.seeds.split(",")]
        rows.append({"network": network, "errors": errors, "mean": statistics.mean(errors), "paper": PAPER[network]})
        print(f"{network:12} {rows[-1]['mean']:6.2f} %   paper {PAPER[network]:5.2f} %   seeds {len(errors)}")
    (values.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
