"""Writes torch_backbones.npz: features of torch's dilated networks, what timm tells of features, and adapted kernels.

Run it as make_torch_logits.py, whose formulas give the weights and the images. Torch computes in float64.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden.make_torch_logits import from_timm, images, tensor

GOLDEN = Path(__file__).with_name("torch_backbones.npz")
# (name in the registry and in timm or torchvision, output stride, size of the images). Sizes are odd: borders show.
TORCHVISION = (("resnext50_32x4d", 8, 65),)
TIMM = (("resnet18", 16, 75), ("resnet26t", 8, 75), ("resnetv2_50d", 8, 65))
# Names in the registry and in timm whose channels and reductions are kept.
INFO = ("resnet18", "resnet26t", "resnet50s", "seresnext50_32x4d", "wide_resnet50_2", "resnetv2_50d", "densenet161")
# Channels of the images to which a kernel of three is adapted.
CHANNELS = (1, 2, 4, 6, 8)


def fill(network, name: str):
    """Return `network` in float64 and in evaluation, with the weights that `tensor` gives."""
    import torch

    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        key = from_timm(name, key) if name.startswith("resnetv2") else key
        shape = value.shape[:2] if key == "fc.weight" else value.shape
        value.copy_(torch.from_numpy(tensor(key, tuple(shape))).reshape(value.shape))
    return network.double().eval()


def kept(maps: np.ndarray) -> np.ndarray:
    """Return the mean of each map, and the first channel whole, as one vector of a batch of one."""
    return np.concatenate([maps[0].mean(axis=(1, 2)), maps[0, 0].ravel()]).astype(np.float32)


def main() -> None:
    """Compute and write the reference."""
    import torch

    # torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    import torchvision
    from timm.models import adapt_input_conv
    from torchvision.models._utils import IntermediateLayerGetter

    golden = {}
    with torch.no_grad():
        for name, stride, size in TORCHVISION:
            network = torchvision.models.get_model(
                name, replace_stride_with_dilation=[stride <= own for own in (4, 8, 16)]
            )
            backbone = IntermediateLayerGetter(fill(network, name), {f"layer{i}": f"stage{i}" for i in (3, 4)})
            for stage, maps in backbone(torch.from_numpy(images(1, size)).double()).items():
                golden[f"torchvision/{name}/{stride}/{size}/{stage}"] = kept(maps.numpy())
        for name, stride, size in TIMM:
            network = fill(timm.create_model(name, output_stride=stride), name)
            image = torch.from_numpy(images(1, size)).double()
            for stage in (3, 4):
                # The tap of the last stage is the normalized one, as it is here.
                (maps,) = network.forward_intermediates(image, [stage], norm=True, intermediates_only=True)
                golden[f"timm/{name}/{stride}/{size}/stage{stage}"] = kept(maps.numpy())
            golden[f"timm/{name}/{stride}/{size}/logits"] = network(image)[0].numpy().astype(np.float32)
    for name in INFO:
        info = timm.create_model(name, features_only=True).feature_info
        golden[f"info/{name}"] = np.array([info.channels(), info.reduction()])
    kernel = torch.from_numpy(tensor("conv1.weight", (4, 3, 3, 3)))
    for channels in CHANNELS:
        golden[f"adapted/{channels}"] = adapt_input_conv(channels, kernel.clone()).numpy()
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
