"""Run the sweeps of one scale, keep their records without checkpoints, and write the report of them.

    python benchmarks/studies.py --scale=digits
    python benchmarks/studies.py --scale=cifar10 --sweeps=depth,degradation
        [--out=FOLDER] [--path=FOLDER] [--together=4] [--config.seeds=(0,1,2)] [--config.base.any.field=value ...]

Report and records, an archive a sweep, go to runs/studies/records/SCALE, or to --out. Finished runs are not repeated,
and a stopped one resumes. `--together=N` starts N processes, each of which takes the next run that no other is
training, under NVIDIA's MPS where there is one: small networks leave most of a GPU idle. On the digits all sweeps take
about an hour of one CPU core. CIFAR-10 needs a GPU: on an H200 four runs of ResNet-20 by the full recipe took four
minutes together; on two CPU cores one would take three hours and more (extrapolated from 726 images a second).
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.processes import mps, together  # noqa: E402
from resnet_jax.lab.report.runs import records  # noqa: E402
from resnet_jax.run.archives import packed, read_archive  # noqa: E402
from resnet_jax.run.files import write_atomically  # noqa: E402

NORM_SCOPE_DEVICES = "--xla_force_host_platform_device_count=8"  # where there are fewer than 8, a CPU plays them


def keep(runs: pathlib.Path, archive: pathlib.Path) -> None:
    """Pack the records of a sweep; those of runs that an earlier archive has and the folder has not are kept."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    kept = read_archive(archive) if archive.exists() else {}
    write_atomically(archive, packed(kept | records(runs)))


def finished(name: str, values: argparse.Namespace, extra: list[str], environment: dict[str, str]) -> bool:
    """Run a sweep, keep its records, and return whether all of its runs are done."""
    workdir = values.runs / values.scale / name
    command = [sys.executable, "main.py", f"--config=configs/sweeps/{name}.py:{values.scale}"]
    if name == "norm_scope":
        flags = f"{environment.get('XLA_FLAGS', '')} {NORM_SCOPE_DEVICES}".strip()
        environment = environment | {"XLA_FLAGS": flags}
    commands = [[*command, f"--workdir={workdir}", *extra]] * values.together
    code = max(abs(each) for each in together(commands, environment))
    if code > 2:
        sys.exit(code)  # stopped: the same command resumes
    if workdir.exists():
        keep(workdir, values.out / f"{name}.zip")
    return not code


def main() -> None:
    """Run, keep and report."""
    files = (ROOT / "configs" / "sweeps").glob("[a-z]*.py")
    shipped = sorted(file.stem for file in files if file.stem != "scales")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--out", type=pathlib.Path, help="folder of records and report")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "studies")
    parser.add_argument("--sweeps", default=",".join(shipped))
    parser.add_argument("--path", help="folder of the data, if they are not to be downloaded")
    parser.add_argument("--together", type=int, default=1, help="processes at once")
    values, extra = parser.parse_known_args()
    values.out = values.out or ROOT / "runs" / "studies" / "records" / values.scale
    if values.together < 1:
        parser.error("--together is a number of processes, 1 or more.")
    if values.path:
        extra.append(f"--config.base.data.path={values.path}")
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if values.together > 1 and shutil.which("nvidia-cuda-mps-control"):
            environment = stack.enter_context(mps(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        failed = [name for name in values.sweeps.split(",") if not finished(name, values, extra, environment)]
    report = [sys.executable, "-m", "resnet_jax", "report", str(values.out), f"--out={values.out / 'report.html'}"]
    subprocess.run(report, cwd=ROOT, check=True)
    if failed:
        sys.exit(f"not all runs of {', '.join(failed)} are done; see above.")


if __name__ == "__main__":
    main()
