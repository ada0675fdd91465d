import io
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io

from resnet_jax.data.sources import archives, open_dataset
from resnet_jax.errors import DataError

WNIDS = ("n02", "n01", "n03")  # in the order of the archive, which is not that of the labels


def tar(files, mode="w", file_format=tarfile.GNU_FORMAT):
    """The bytes of a tar file of (name, content)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode, format=file_format) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def image(name):
    return f"image {name}".encode() * 50


def train_archive(file_format=tarfile.GNU_FORMAT):
    inner = {wnid: tar([(name := f"{wnid}_{i}.JPEG", image(name)) for i in (9, 3)], "w", file_format) for wnid in WNIDS}
    return tar([(f"{wnid}.tar", content) for wnid, content in inner.items()], "w", file_format)


VALIDATION = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (2, 1, 3)]


def kit(ids=(3, 1, 2)):
    """A development kit whose numbers 1, 2, 3 are n03, n01, n02, and whose images have the numbers `ids`."""
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    table = np.array([(1, "n03", "c"), (2, "n01", "a"), (3, "n02", "b"), (4, "n99", "above all")], kinds)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": table})
    truth = "".join(f"{number}\n" for number in ids).encode()
    folder = "ILSVRC2012_devkit_t12/data/"
    names = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth, "readme.txt": b""}
    return tar([(folder + name, content) for name, content in names.items()], "w:gz")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / archives.TRAIN).write_bytes(train_archive())
    (tmp_path / archives.VALIDATION).write_bytes(tar([(name, image(name)) for name in VALIDATION]))
    (tmp_path / archives.KIT).write_bytes(kit())
    return tmp_path


def open_it(folder):
    return open_dataset("archives", str(folder), image_size=32)


def told(split):
    return [(split.name(i), *split[i]) for i in range(len(split))]


TRAIN = [
    (f"{wnid}/{wnid}_{i}.JPEG", image(f"{wnid}_{i}.JPEG"), label)
    for label, wnid in enumerate(sorted(WNIDS))
    for i in (3, 9)
]
# Image 1 has the number 3, which is n02; image 2 has 1, n03; image 3 has 2, n01.
TEST = [(name, image(name), label) for label, name in enumerate([f"ILSVRC2012_val_0000000{i}.JPEG" for i in (3, 1, 2)])]


@pytest.mark.parametrize("file_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_read_out_of_the_archives_in_the_order_of_label_and_name(folder, file_format):
    (folder / archives.TRAIN).write_bytes(train_archive(file_format))
    data = open_it(folder)
    assert data.classes == ("n01", "n02", "n03")
    assert told(data.train) == TRAIN
    assert told(data.test) == TEST
    assert told(pickle.loads(pickle.dumps(data.train))) == TRAIN


@pytest.mark.parametrize(
    "lines",
    [
        ["n02", "n03", "n01"],
        ["1", "2", "0"],
        [f"{VALIDATION[0]} n03", f"{VALIDATION[1]} n02", f"{VALIDATION[2]} n01"],
        [f"val/{VALIDATION[2]} 0", "", f"{VALIDATION[1]} 1", f"{VALIDATION[0]} 2"],
    ],
    ids=["wnids", "labels", "names-wnids", "names-labels"],
)
def test_a_plain_file_of_labels_will_do_and_goes_before_the_kit(folder, lines):
    (folder / archives.KIT).write_bytes(b"not read")
    (folder / archives.LABELS).write_text("\n".join(lines) + "\n")
    assert told(open_it(folder).test) == TEST


@pytest.mark.parametrize("name", ["../../../escaped.JPEG", "/tmp/escaped.JPEG", "a\x1b[2Jb.JPEG", "x" * 300])
def test_hostile_names_are_only_names(folder, name):
    inner = tar([(name, b"content")], file_format=tarfile.PAX_FORMAT)
    (folder / archives.TRAIN).write_bytes(tar([(f"{wnid}.tar", inner) for wnid in WNIDS]))
    assert told(open_it(folder).train)[0] == (f"n01/{name}", b"content", 0)
    assert {file.name for file in folder.iterdir()} == {archives.TRAIN, archives.VALIDATION, archives.KIT}
    assert not [
        *folder.parents[2].glob("escaped*"),
        *folder.parents[1].glob("escaped*"),
        *pathlib.Path("/tmp").glob("escaped*"),
    ]


def test_links_and_folders_in_an_archive_are_no_images(folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("odd")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name in VALIDATION:
            member = tarfile.TarInfo(name)
            member.size = len(image(name))
            archive.addfile(member, io.BytesIO(image(name)))
    (folder / archives.VALIDATION).write_bytes(packed.getvalue())
    assert told(open_it(folder).test) == TEST


@pytest.mark.parametrize("archive", [archives.TRAIN, archives.VALIDATION])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.77])
def test_an_archive_that_was_cut_off_is_refused_wherever_it_was_cut(folder, archive, share):
    # Two blocks of zeros end a tar file, and padding to 10,240 bytes follows.
    whole = (folder / archive).read_bytes().rstrip(b"\0")
    (folder / archive).write_bytes(whole[: int(share * len(whole)) // 512 * 512])
    with pytest.raises(DataError, match=r"get it again|is no whole tar file"):
        open_it(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / archives.TRAIN).unlink(), f"has no {archives.TRAIN}: get them from image-net.org"),
        (lambda folder: (folder / archives.KIT).unlink(), f"nothing that labels .*{archives.KIT} or {archives.LABELS}"),
        (lambda folder: (folder / archives.KIT).write_bytes(b"no archive"), "is not the official development kit"),
        (lambda folder: (folder / archives.KIT).write_bytes(kit((1, 2))), "labels 2 images and .* holds 3"),
        (lambda folder: (folder / archives.KIT).write_bytes(kit((1, 2, 4))), "the label 'n99', which is no class"),
        (lambda folder: (folder / archives.KIT).write_bytes(kit((1, 2, 5))), "is not the official development kit"),
        (lambda folder: (folder / archives.LABELS).write_text("0\n1\n3\n"), "the label '3', which is no class"),
        (lambda folder: (folder / archives.LABELS).write_text("a 0\nb 1\nc 2\n"), "00001.JPEG the label None"),
        (lambda folder: (folder / archives.TRAIN).write_bytes(b"no archive" * 100), "is no whole tar file"),
        (lambda folder: (folder / archives.TRAIN).write_bytes(tar([])), "holds no files"),
        (lambda folder: (folder / archives.TRAIN).write_bytes(tar([("n01.tar", tar([]))])), "n01.tar .*holds no files"),
    ],
)
def test_what_does_not_fit_is_named(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message):
        open_it(folder)
