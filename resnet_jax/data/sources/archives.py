"""ImageNet's official archives as they are: the images of ILSVRC2012 read out of their tar files, without unpacking."""

import dataclasses
import errno
import io
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import numpy as np
from jaxtyping import Int32, Int64

from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from resnet_jax.errors import DataError

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
LABELS = "ILSVRC2012_val_labels.txt"

Place = tuple[str, int, int]  # a member's name, and where its bytes are: offset and size


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """A split of encoded images, which are stored one after the other in an archive and read on demand."""

    archive: pathlib.Path
    names: np.ndarray  # bytes: a million Python strings would be copied page by page into each worker process
    offsets: Int64[np.ndarray, " examples"]
    sizes: Int64[np.ndarray, " examples"]
    labels: Int32[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        with open(self.archive, "rb") as file:
            file.seek(self.offsets[index])
            content = file.read(self.sizes[index])
        if len(content) < self.sizes[index]:
            raise OSError(errno.EIO, f"{self.archive} was cut off while it was in use")
        return content, int(self.labels[index])

    def name(self, index: int) -> str:
        """The member's name, below the folder of its class in training."""
        return os.fsdecode(bytes(self.names[index]))


def open_archives(path: str | None) -> Dataset:
    """Opens ILSVRC2012 as image-net.org gives it: PATH holds both archives of images, and what labels the second.

    `ILSVRC2012_img_train.tar` holds an archive WNID.tar for each class; labels count the classes in the order of their
    WordNet numbers. `ILSVRC2012_img_val.tar` holds images alone, and their labels are taken from one of

    - `ILSVRC2012_val_labels.txt`: a line for each image, in the order of their names, with its WNID or its label, or
      with the image's name before it;
    - `ILSVRC2012_devkit_t12.tar.gz`, the official development kit, whose ground truth are numbers that its `meta.mat`
      gives WNIDs to.

    Examples are in the order of label and name. Members are never unpacked, so that their names can do no harm.

    Raises:
      DataError: an archive is missing, cut off or packed, or the labels do not fit the images.
    """
    if not path:
        raise DataError(f"The source archives reads {TRAIN} and {VALIDATION}: set data.path to their folder.")
    root = pathlib.Path(path).expanduser()
    missing = [name for name in (TRAIN, VALIDATION) if not (root / name).is_file()]
    if missing:
        raise DataError(f"{root} has no {' and no '.join(missing)}: get them from image-net.org and put them there.")
    by_class = train_members(root / TRAIN)
    classes = tuple(sorted(by_class))
    train = [(label, member) for label, wnid in enumerate(classes) for member in by_class[wnid]]
    with open(root / VALIDATION, "rb") as file:
        images = sorted(members(file, root / VALIDATION))
    labels = validation_labels(root, classes, [name for name, _, _ in images])
    test = sorted(zip(labels, images, strict=True))
    splits = split(root / TRAIN, train), split(root / VALIDATION, test)
    return Dataset(*splits, classes, IMAGENET_MEAN, IMAGENET_STD, (f"{root / TRAIN}", f"{root / VALIDATION}"))


def split(archive: pathlib.Path, labelled: list[tuple[int, Place]]) -> Members:
    """Return the split of some labelled members of an archive."""
    labels, places = zip(*labelled, strict=True)
    names, offsets, sizes = zip(*places, strict=True)
    return Members(
        archive,
        np.array([os.fsencode(name) for name in names]),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        np.array(labels, np.int32),
    )


def train_members(archive: pathlib.Path) -> dict[str, list[Place]]:
    """Return the images of each class of an archive of archives, by name."""
    found = {}
    with open(archive, "rb") as file:
        for name, start, size in members(file, archive):
            wnid = pathlib.PurePosixPath(name).stem
            inner = members(cast(BinaryIO, Window(file, start, size)), f"{name} of {archive}")
            found[wnid] = sorted((f"{wnid}/{image}", start + offset, length) for image, offset, length in inner)
            if not found[wnid]:
                raise DataError(f"{name} of {archive} holds no images: get the archive again.")
    return found


def members(file: BinaryIO, where: str | os.PathLike) -> Iterator[Place]:
    """Yield the regular files of an open tar file that is not packed. Raises DataError if it is damaged or empty."""
    file.seek(0)
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    count += 1
                    yield member.name, member.offset_data, member.size
            # tarfile takes what it cannot read for the end; the true one is a block of zeros.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends too early")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{where} is no whole tar file ({error}): get it again.") from error
    if not count:
        raise DataError(f"{where} holds no files: get it again.")


class Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._position = file, start, size, 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the position in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position in the part."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on."""
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        content = self._file.read(left if size < 0 else min(size, left))
        self._position += len(content)
        return content


def validation_labels(root: pathlib.Path, classes: tuple[str, ...], names: list[str]) -> list[int]:
    """Return the labels of the validation images, from the file of labels or else the development kit."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if (root / LABELS).is_file():
        where = root / LABELS
        lines = [line.split() for line in where.read_text().splitlines() if line.strip()]
        if all(len(line) == 2 for line in lines):
            known = {pathlib.PurePosixPath(name).name: word for name, word in lines}
            words = [known.get(pathlib.PurePosixPath(name).name) for name in names]
        else:
            words = [line[0] for line in lines if len(line) == 1]
    elif (root / KIT).is_file():
        where = root / KIT
        words = ground_truth(where)
    else:
        raise DataError(f"{root} has nothing that labels {VALIDATION}: put {KIT} or {LABELS} there.")
    label_of |= {str(label): label for label in range(len(classes))}
    if len(words) != len(names):
        raise DataError(f"{where} labels {len(words)} images and {VALIDATION} holds {len(names)}: get both again.")
    for name, word in zip(names, words, strict=True):
        if word not in label_of:
            raise DataError(f"{where} gives {name} the label {word!r}, which is no class of {TRAIN}: correct it.")
    return [label_of[str(word)] for word in words]


def ground_truth(kit: pathlib.Path) -> list[str]:
    """Return the WNIDs of the validation images, in the order of their names, by the development kit's own tables."""
    import scipy.io

    try:
        with tarfile.open(kit, "r:gz") as archive:
            content = {
                name: cast(IO[bytes], archive.extractfile(member)).read()
                for member in archive
                if (name := pathlib.PurePosixPath(member.name).name)
                in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
                and member.isreg()
            }
        table = scipy.io.loadmat(io.BytesIO(content["meta.mat"]), squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table}
        return [wnid_of[int(number)] for number in content["ILSVRC2012_validation_ground_truth.txt"].split()]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{kit} is not the official development kit ({error!r}): get it again.") from error
