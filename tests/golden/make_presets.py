"""Writes resnet_jax/weights/presets.csv: known weights of the registered networks, and how they were evaluated.

Run it in the environment that make_torch_logits.py describes, with the registered names on standard input and timm's
own results (results/results-imagenet.csv of huggingface/pytorch-image-models, here of commit 4e5207c7) as argument:

    .venv/bin/python -c "import resnet_jax; print(*resnet_jax.list_models())" |
        torchenv/bin/python tests/golden/make_presets.py results-imagenet.csv

Of a network's weights the first are its default: torchvision's first ones, else the ones that timm takes by default.
timm's presets are those of its evaluation (`test_input_size`, `test_crop_pct`), at which its results were measured.
"""

import csv
import math
import sys
from pathlib import Path

TABLE = Path(__file__).parents[2] / "resnet_jax" / "weights" / "presets.csv"
COLUMNS = ("name", "network", "weights", "dataset", "resize", "size", "interpolation", "mean", "std", "overrides")
COLUMNS += ("top1", "top5", "source")
IMAGENET = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"}
# Of akamaster/pytorch_resnet_cifar10's README: depth, file, top-1 error in percent. Each is the best over the epochs.
AKAMASTER = (
    (20, "resnet20-12fca82f.th", 8.27),
    (32, "resnet32-d509ac18.th", 7.37),
    (44, "resnet44-014dd654.th", 6.90),
    (56, "resnet56-4bfd9763.th", 6.61),
    (110, "resnet110-1d1ed7c2.th", 6.32),
    (1202, "resnet1202-f3b1deed.th", 6.18),
)
AKAMASTER_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


def torchvision_rows(networks: list[str]) -> list[dict]:
    """The rows of torchvision's weights."""
    import torch

    # torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models

    rows = []
    for network in sorted(set(networks) & set(models.list_models()), key=networks.index):
        for weights in models.get_model_weights(network):
            crop, metrics = weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
            row = {
                "name": f"{network}.{weights.name}",
                "network": network,
                "weights": weights.url,
                "dataset": "folder",
                "resize": crop.resize_size[0],
                "size": crop.crop_size[0],
                "interpolation": crop.interpolation.value,
                "mean": spaced(crop.mean),
                "std": spaced(crop.std),
                "top1": f"{metrics['acc@1'] / 100:.5f}",
                "top5": f"{metrics['acc@5'] / 100:.5f}",
                "source": "torchvision 0.28",
            }
            rows.append(row)
    return rows


def timm_rows(networks: list[str], results: Path) -> list[dict]:
    """The rows of timm's weights with the 1,000 classes of ILSVRC2012."""
    import timm

    with results.open() as file:
        measured = {(row["model"], int(row["img_size"])): row for row in csv.DictReader(file)}
    rows = []
    for network in networks:
        names = timm.list_models(f"{network}.*", pretrained=True)
        default = timm.get_pretrained_cfg(network, allow_unregistered=True) if names else None
        for name in sorted(names, key=lambda name: name != f"{network}.{default.tag}"):
            cfg = timm.get_pretrained_cfg(name)
            if cfg.num_classes != 1000 or not cfg.hf_hub_id or cfg.crop_mode != "center":
                continue
            size = (cfg.test_input_size or cfg.input_size)[-1]
            result = measured.get((name, size))
            row = {
                "name": name,
                "network": network,
                "weights": f"hf:{cfg.hf_hub_id}",
                "dataset": "folder",
                "resize": math.floor(size / (cfg.test_crop_pct or cfg.crop_pct)),
                "size": size,
                "interpolation": cfg.interpolation,
                "mean": spaced(cfg.mean),
                "std": spaced(cfg.std),
                "top1": f"{float(result['top1']) / 100:.5f}" if result else "",
                "top5": f"{float(result['top5']) / 100:.5f}" if result else "",
                "source": "timm 1.0.31",
            }
            rows.append(row)
    return rows


def akamaster_rows() -> list[dict]:
    """The rows of akamaster's CIFAR-10 networks, which saw x / 255 with ImageNet's mean and deviation."""
    return [
        {
            "name": f"cifar_resnet{depth}.akamaster",
            "network": f"cifar_resnet{depth}",
            "weights": AKAMASTER_URL + file,
            "dataset": "cifar10",
            "resize": 32,
            "size": 32,
            "interpolation": "bilinear",
            **IMAGENET,
            "overrides": "shortcut=A_both",
            "top1": f"{1 - error / 100:.5f}",
            "source": "akamaster/pytorch_resnet_cifar10",
        }
        for depth, file, error in AKAMASTER
    ]


def spaced(values: tuple[float, ...]) -> str:
    """Return numbers as a field of the table."""
    return " ".join(str(value) for value in values)


def main() -> None:
    """Write the table."""
    networks = sys.stdin.read().split()
    rows = torchvision_rows(networks) + timm_rows(networks, Path(sys.argv[1])) + akamaster_rows()
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
