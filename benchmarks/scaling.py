"""Count what the devices of one host send each other in a train step, for 1 to 8 of them and each BatchNorm scope.

    python benchmarks/scaling.py --out=results/scaling/cpu.json [--network=cifar_resnet20] [--batch=16] [--size=32]
        [--devices=1,2,4,8]

The devices are parts of one CPU, so that nothing is timed: collectives and their bytes are read off the compiled step.
"""

import argparse
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accelerators import compile_step  # noqa: E402
from benchmarks.measuring import write  # noqa: E402
from benchmarks.programs import collectives  # noqa: E402
from resnet_jax import create_model  # noqa: E402
from resnet_jax.training.parallel import Devices  # noqa: E402


def main() -> None:
    """Compile all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--batch", type=int, default=16, help="images a device")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--devices", default="1,2,4,8", help="at most 8")
    values = parser.parse_args()
    rows = []
    for count in map(int, values.devices.split(",")):
        for scope in ("local", "global"):
            devices = Devices.create(count, scope)
            model = create_model(values.network, norm_axis=devices.norm_axis)
            compiled, _ = compile_step(model, devices, values.batch, values.size)
            sent = collectives(compiled.as_text())
            rows.append({"devices": count, "norm_scope": scope, "collectives": sent})
            parts = (f"{kind} {each['count']} of {each['megabytes']:.3f} MB in all" for kind, each in sent.items())
            print(f"{count} devices, BatchNorm {scope:6}  {', '.join(parts) or 'nothing'}", flush=True)
    write(values.out, {"network": values.network, "batch": values.batch, "image": values.size, "rows": rows})


if __name__ == "__main__":
    main()
