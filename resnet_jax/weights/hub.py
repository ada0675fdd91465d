"""Weights by name: the path of their file on this machine, downloaded if it is missing."""

import os
import re
import sys
import tempfile
from pathlib import Path

import pooch
import requests

from resnet_jax.errors import DataError, nearest
from resnet_jax.run.files import disk_errors
from resnet_jax.weights.presets import presets

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def local_file(weights: str | Path) -> Path:
    """Return the local path of weights.

    They are named by a path, by a preset ("resnet50.IMAGENET1K_V2"), by the file name under which a preset's weights
    are published ("resnet50-11ad3fa6.pth"), or as "hf:OWNER/NAME" on the Hugging Face Hub, where "timm/NAME" may go
    without the "hf:". A file at that path takes precedence.

    Raises DataError if there are no such weights, or if they cannot be downloaded.
    """
    name = str(weights)
    if Path(name).exists():
        return Path(name)
    published = {known: preset.weights for preset in presets().values() for known in (preset.name, preset.file)}
    place = published.get(name, f"hf:{name}" if name.startswith("timm/") else name)
    if place.startswith("hf:"):
        return from_hub(place.removeprefix("hf:"))
    if place.startswith("https://") and place != name:
        return from_address(place, Path(pooch.os_cache("resnet_jax")) / "weights")
    raise DataError(f"there is no weights file {name}: check the name{nearest(name, published)}.")


def from_hub(repository: str) -> Path:
    """Return the weights of a repository on the Hugging Face Hub: those in that library's cache, else a download.

    Raises DataError if they are neither here nor to be had.
    """
    from huggingface_hub import constants

    file = hub_file(repository, download=False)
    # huggingface_hub itself would try for half a minute, with warnings.
    if file is None and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)):
        raise DataError(
            f"{repository} is not in the cache of huggingface_hub, and the Hugging Face Hub cannot be reached: get "
            f"{HUB_FILES[0]} from it elsewhere, and name that file."
        )
    file = file or hub_file(repository, download=True)
    if file is None:
        raise DataError(f"{repository} on the Hugging Face Hub has no {' and no '.join(HUB_FILES)}: name others.")
    return file


def hub_file(repository: str, download: bool) -> Path | None:
    """Return the first of `HUB_FILES` that a repository has, here or, with `download`, on the Hub.

    Raises DataError if there is no such repository, or if its file cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file, local_files_only=not download))
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise DataError(
                f"{repository} cannot be had from the Hugging Face Hub ({reason}): check the name."
            ) from error
    return None


def reachable(address: str) -> bool:
    """Whether a server answers at all."""
    try:
        requests.head(address, timeout=10)
    except requests.RequestException:
        return False
    return True


def from_address(address: str, folder: Path) -> Path:
    """Return a published file in `folder`, downloaded if it is not there.

    Its name carries the first 8 digits of its sha256, as torchvision's do, and they are checked each time.

    Raises DataError if it cannot be downloaded, or has another hash.
    """
    name = address.rpartition("/")[2]
    target = folder / name
    if target.exists():
        check_hash(target, name, "delete it, so that it is downloaded again")
        return target
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unchecked:
            partial = Path(unchecked) / name
            try:
                pooch.HTTPDownloader(progressbar=sys.stderr.isatty())(address, str(partial), None)
            except OSError as error:
                if error.errno is not None:  # of the disk, not of the network
                    raise
                raise DataError(
                    f"{name} could not be downloaded from {address} ({type(error).__name__}): get it elsewhere, and "
                    "name the file."
                ) from error
            check_hash(partial, name, f"try again later; it came from {address}")
            os.replace(partial, target)
    return target


def check_hash(file: Path, name: str, advice: str) -> None:
    """Raise DataError if the sha256 of a file does not begin with the digits in `name`."""
    digits = re.findall(r"-([0-9a-f]{8})\.", name)[0]
    if not pooch.file_hash(str(file), alg="sha256").startswith(digits):
        raise DataError(f"{name} is damaged, as its sha256 does not begin with {digits}: {advice}.")
