"""CIFAR and Fashion-MNIST: the files that their authors publish, downloaded where they are missing."""

import dataclasses
import gzip
import pathlib
import tarfile
from typing import IO, cast

import numpy as np
import pooch
from jaxtyping import UInt8

from resnet_jax.data.sources.dataset import Arrays, Dataset
from resnet_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Cifar:
    """One of the two CIFAR data sets in its binary version: where it comes from and how its files are laid out.

    Attributes:
      archive, md5: the official archive.
      folder: what the archive unpacks to.
      train, test: files of records; a record is `label_bytes` bytes, the last of which is the label, then a plane of
        32x32 bytes each for red, green and blue.
      names: the file that names the classes, one a line.
      mean, std: per channel, of images scaled to 0..1, as published with fb.resnet.torch (datasets/cifar10.lua and
        cifar100.lua).
    """

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR = {
    "cifar10": Cifar(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    "cifar100": Cifar(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,  # The coarse label comes first and is not used.
        mean=(129.3 / 255, 124.1 / 255, 112.4 / 255),
        std=(68.2 / 255, 65.4 / 255, 70.4 / 255),
    ),
}

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def open_cifar(source: str, path: str | None) -> Dataset:
    """Opens "cifar10" or "cifar100" (fine labels): 50,000 training and 10,000 test images (32, 32, 3).

    `path` is the folder of the archive, or the folder that the archive was unpacked to, or the parent of that one.

    Raises:
      DataError: a file is missing and cannot be downloaded, or is damaged.
    """
    cifar = CIFAR[source]
    folder = _folder(source, path)
    contents = _read_cifar(cifar, folder)
    classes = tuple(contents[cifar.names].decode().split())

    def split(*files: str) -> Arrays:
        parts = [_records(contents[file], cifar.label_bytes, f"{file} of {folder}") for file in files]
        records = np.concatenate(parts)
        pixels = records[:, cifar.label_bytes :].reshape(-1, 3, 32, 32)
        labels = records[:, cifar.label_bytes - 1].astype(np.int32)
        _check_labels(labels, len(classes), f"{source} in {folder}")
        return Arrays(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels)

    return Dataset(split(*cifar.train), split(cifar.test), classes, cifar.mean, cifar.std)


def open_fashion_mnist(path: str | None) -> Dataset:
    """Opens Fashion-MNIST: 60,000 training and 10,000 test images (28, 28, 1).

    `path` is the folder of the four idx files, as published (.gz) or unpacked, or its parent if it is called
    `fashion_mnist`.

    Source: Xiao, Rasul and Vollgraf, arXiv:1708.07747. Mean and standard deviation are those of its training images.

    Raises:
      DataError: a file is missing and cannot be downloaded, or is damaged.
    """
    folder = _folder("fashion_mnist", path)
    if (folder / "fashion_mnist").is_dir():
        folder = folder / "fashion_mnist"

    def read(name: str, dimensions: int) -> np.ndarray:
        unpacked = folder / name
        if unpacked.exists():
            return _idx(unpacked.read_bytes(), dimensions, str(unpacked))
        archive = _obtain(folder, f"{name}.gz", FASHION_MNIST_URL, FASHION_MNIST_MD5[f"{name}.gz"])
        return _idx(gzip.decompress(archive.read_bytes()), dimensions, str(archive))

    def split(prefix: str) -> Arrays:
        images = read(f"{prefix}-images-idx3-ubyte", dimensions=3)[..., None]
        labels = read(f"{prefix}-labels-idx1-ubyte", dimensions=1).astype(np.int32)
        if len(images) != len(labels):
            raise DataError(
                f"{folder} holds {len(images)} {prefix} images but {len(labels)} labels: get the official files."
            )
        _check_labels(labels, len(FASHION_MNIST_CLASSES), f"{prefix}-labels-idx1-ubyte of {folder}")
        return Arrays(images, labels)

    return Dataset(split("train"), split("t10k"), FASHION_MNIST_CLASSES, mean=(0.2860,), std=(0.3530,))


def _folder(source: str, path: str | None) -> pathlib.Path:
    return pathlib.Path(path).expanduser() if path else pathlib.Path(pooch.os_cache("resnet_jax")) / source


def _obtain(folder: pathlib.Path, file: str, url: str, md5: str) -> pathlib.Path:
    """The path of an official file in `folder`, downloaded if it is not there, with its checksum verified."""
    target = folder / file
    if target.exists():
        # Never replaced in silence: it may be the only copy of something else.
        if pooch.file_hash(str(target), alg="md5") != md5:
            raise DataError(
                f"{target} is not the official file (md5 {md5}): delete it, so that it is downloaded again."
            )
        return target
    try:
        return pathlib.Path(pooch.retrieve(url + file, known_hash=f"md5:{md5}", fname=file, path=folder))
    except (OSError, ValueError) as error:  # ValueError: what came does not have the checksum.
        reason = "its checksum is wrong" if isinstance(error, ValueError) else type(error).__name__
        raise DataError(
            f"{file} could not be downloaded from {url}{file} ({reason}): get it yourself and put it into {folder}, "
            "or set data.path to the folder where it is."
        ) from error


def _read_cifar(cifar: Cifar, folder: pathlib.Path) -> dict[str, bytes]:
    """The contents of the files, by name, from the unpacked folder if there is one, else from the archive."""
    wanted = {*cifar.train, cifar.test, cifar.names}
    for unpacked in (folder, folder / cifar.folder):
        missing = sorted(name for name in wanted if not (unpacked / name).exists())
        if not missing:
            return {name: (unpacked / name).read_bytes() for name in wanted}
        if len(missing) < len(wanted):
            raise DataError(f"{unpacked} lacks {', '.join(missing)}: unpack {cifar.archive} again.")
    # Read in one pass and not unpacked: nothing in an archive can then be written anywhere, and hosts that share a
    # folder cannot see each other's half-written files.
    with tarfile.open(_obtain(folder, cifar.archive, CIFAR_URL, cifar.md5), "r|gz") as archive:
        named = ((pathlib.PurePosixPath(member.name).name, member) for member in archive)
        return {name: cast(IO[bytes], archive.extractfile(member)).read() for name, member in named if name in wanted}


def _records(content: bytes, label_bytes: int, where: str) -> UInt8[np.ndarray, "records bytes"]:
    size = label_bytes + 3 * 32 * 32
    if not content or len(content) % size:
        raise DataError(
            f"{where} has {len(content)} bytes, which is no whole number of records of {size} bytes: get it again."
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def _idx(content: bytes, dimensions: int, where: str) -> np.ndarray:
    """The array in an idx file: bytes 0, 0, 8 (uint8), number of dimensions; these as big-endian int32; data."""
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise DataError(f"{where} is not an idx file of bytes in {dimensions} dimensions: get the official file.")
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    if len(content) != header + np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{where} should have {shape.tolist()} bytes after its header but is cut off or too long: get it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    if labels.max() >= num_classes:
        raise DataError(
            f"{where} has a label {labels.max()}, but there are only {num_classes} classes: get the files again."
        )
