"""Writes torch_export.json: what torch has loaded strictly of the files that `convert` writes.

Run it in the environment that make_torch_logits.py describes, and `convert` in the project's own:

    torchenv/bin/python -m tests.golden.make_torch_export write DIR
    for name in resnet18 resnext50_32x4d densenet121; do
        .venv/bin/python -m resnet_jax convert DIR/$name.pth DIR/$name.safetensors --model $name
    done
    torchenv/bin/python -m tests.golden.make_torch_export check DIR

The first step writes torchvision's networks with random values in all arrays. The last one loads the files by
`load_state_dict(strict=True)`, and is refused if one tensor differs in one bit from what the first step wrote. Counters
of batches are in no safetensors file and are not missed: BatchNorm fills them in where a state dict has no version.
Contents, for each network: the number of arrays, and the sha256 of their names and shapes as `listing` gives them.
"""

import hashlib
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("torch_export.json")
NETWORKS = ("resnet18", "resnext50_32x4d", "densenet121")


def listing(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return a line for each array, in the order of their names: the name and the shape."""
    return "".join(f"{name} {'x'.join(map(str, shapes[name]))}\n" for name in sorted(shapes))


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return the sha256 of `listing`."""
    return hashlib.sha256(listing(shapes).encode()).hexdigest()


def main(step: str, folder: Path) -> None:
    """Do a step."""
    import torch

    # torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from safetensors.torch import load_file
    from torchvision.models import get_model

    golden = {}
    for name in NETWORKS:
        if step == "write":
            arrays = get_model(name).state_dict()
            drawn = {
                key: torch.rand_like(array) if array.is_floating_point() else array for key, array in arrays.items()
            }
            torch.save(drawn, folder / f"{name}.pth")
            continue
        network, exported = get_model(name), load_file(folder / f"{name}.safetensors")
        print(name, network.load_state_dict(exported, strict=True))
        wanted, loaded = torch.load(folder / f"{name}.pth"), network.state_dict()
        assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)
        shapes = {key: tuple(array.shape) for key, array in exported.items()}
        golden[name] = {"arrays": len(shapes), "sha256": digest(shapes)}
    if golden:
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
