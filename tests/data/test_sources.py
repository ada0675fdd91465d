import collections
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import pickle
import runpy
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import cifar, open_dataset
from resnet_jax.data.sources.dataset import share
from resnet_jax.errors import DataError

REPOSITORY = pathlib.Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data, the real data, is not here")

open_32 = functools.partial(open_dataset, image_size=32)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder and the address at which its files can be downloaded."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def cifar_record(labels, red, green, blue):
    """A record whose planes are constant, but for the second pixel of the first row, which is one brighter."""
    planes = [bytes([value, value + 1, *[value] * 1022]) for value in (red, green, blue)]
    return bytes(labels) + b"".join(planes)


def cifar10_files():
    batches = {f"data_batch_{i}.bin": cifar_record([i], 10 * i, 20, 30) for i in range(1, 6)}
    names = "\n".join(f"name{i}" for i in range(10)) + "\n\n"  # The official file ends with an empty line, too.
    return {**batches, "test_batch.bin": cifar_record([7], 1, 2, 3) * 2, "batches.meta.txt": names.encode()}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_cifar10_archive(target):
    with tarfile.open(target, "w:gz") as archive:
        for name, content in cifar10_files().items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def expect_fake_archive(monkeypatch, archive_md5, url="http://127.0.0.1:9/"):
    """Makes `archive_md5` the official checksum of CIFAR-10 and `url`, by default a dead one, its address."""
    fields = {**vars(cifar.CIFAR["cifar10"]), "md5": archive_md5}
    monkeypatch.setitem(cifar.CIFAR, "cifar10", cifar.Cifar(**fields))
    monkeypatch.setattr(cifar, "CIFAR_URL", url)


def check_fake_cifar10(dataset):
    assert dataset.train.labels.tolist() == [1, 2, 3, 4, 5]
    assert dataset.test.labels.tolist() == [7, 7]
    assert dataset.classes == tuple(f"name{i}" for i in range(10))
    image, label = dataset.train[2]
    assert (image.shape, image.dtype, label) == ((32, 32, 3), np.uint8, 3)
    assert image[0, 0].tolist() == [30, 20, 30]
    assert image[0, 1].tolist() == [31, 21, 31]
    assert image[1, 0].tolist() == [30, 20, 30]


# Names


def test_unknown_source_names_the_nearest_and_all():
    with pytest.raises(
        DataError,
        match=r"'cifar', did you mean 'cifar10'\?;.*digits, .*cifar100, .*folder, archives, records, synthetic",
    ):
        open_32("cifar")


@pytest.mark.parametrize("source", ["nothing like it", "tfds", "tfds:", "digits:8"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(DataError, match="There is no data source"):
        open_32(source)


# Digits and synthetic


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    expected = load_digits()
    dataset = open_32("digits")
    assert (len(dataset.train), len(dataset.test)) == (1438, 359)
    assert dataset.classes == tuple("0123456789")

    def flat(images):
        return images.reshape(len(images), 64)

    both = np.concatenate([dataset.train.images, dataset.test.images])
    # Half a level is 8 of 255, so rounding back is exact.
    levels = np.rint(flat(both).astype(float) * 16 / 255).astype(int)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert sorted(zip(labels.tolist(), levels.tolist(), strict=True)) == sorted(
        zip(expected.target.tolist(), flat(expected.images).astype(int).tolist(), strict=True)
    )
    assert (both.min(), both.max(), both.dtype, both.shape[1:]) == (0, 255, np.uint8, (8, 8, 1))


def test_digits_split_is_stratified_and_never_changes():
    dataset = open_32("digits")
    for label in range(10):
        train, test = (int((split.labels == label).sum()) for split in (dataset.train, dataset.test))
        assert test == round((train + test) / 5)
    # Recorded when the split was made: whoever changes them makes all earlier digits results incomparable.
    assert zlib.crc32(dataset.train.images.tobytes()) == 1039635784
    assert zlib.crc32(dataset.test.images.tobytes()) == 1951558177


def test_digits_statistics_are_those_of_the_training_images():
    dataset = open_32("digits")
    values = [value / 255 for value in dataset.train.images.ravel().tolist()]
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    assert dataset.mean == pytest.approx((mean,))
    assert dataset.std == pytest.approx((std,))


def test_synthetic_has_the_asked_size_and_is_the_same_each_time():
    first, second = (open_dataset("synthetic", image_size=12, num_classes=7) for _ in range(2))
    assert (len(first.train), len(first.test), len(first.classes)) == (1024, 256, 7)
    assert first.train[5][0].shape == (12, 12, 3)
    assert set(first.train.labels.tolist()) == set(range(7))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)
    assert not np.array_equal(first.train.images[:256], first.test.images)


def test_arrays_travel_to_worker_processes():
    train = open_32("digits").train
    copy = pickle.loads(pickle.dumps(train))
    assert len(copy) == len(train)
    np.testing.assert_array_equal(copy[3][0], train[3][0])


# CIFAR


@pytest.mark.parametrize("inside", [False, True], ids=["parent", "folder"])
def test_cifar10_is_read_from_an_unpacked_folder_or_its_parent(tmp_path, inside):
    folder = tmp_path / "cifar-10-batches-bin"
    write(folder, cifar10_files())
    dataset = open_32("cifar10", str(folder if inside else tmp_path))
    check_fake_cifar10(dataset)
    assert dataset.mean == pytest.approx((0.4914, 0.4824, 0.4467), abs=5e-5)
    assert dataset.std == pytest.approx((0.2471, 0.2435, 0.2616), abs=5e-5)


def test_cifar100_uses_the_fine_label(tmp_path):
    files = {"train.bin": cifar_record([3, 42], 1, 2, 3), "test.bin": cifar_record([4, 99], 4, 5, 6)}
    names = "\n".join(f"fine{i}" for i in range(100))
    write(tmp_path / "cifar-100-binary", {**files, "fine_label_names.txt": names.encode()})
    dataset = open_32("cifar100", str(tmp_path))
    assert (dataset.train[0][1], dataset.test[0][1]) == (42, 99)
    assert dataset.test[0][0][5, 5].tolist() == [4, 5, 6]
    assert dataset.classes[99] == "fine99"
    assert dataset.mean == pytest.approx((0.5071, 0.4867, 0.4408), abs=5e-5)


def test_cifar10_archive_in_the_folder_is_verified_and_read(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar10_archive(archive)
    expect_fake_archive(monkeypatch, md5(archive))
    check_fake_cifar10(open_32("cifar10", str(tmp_path)))


def test_cifar10_archive_with_a_wrong_checksum_is_refused_and_kept(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar10_archive(archive)
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz is not the official file .*c32a1d4a.*: delete it"):
        open_32("cifar10", str(tmp_path))
    assert archive.exists()


def test_cifar10_is_downloaded_once_and_verified(tmp_path, server, monkeypatch):
    folder, url = server
    archive = folder / "cifar-10-binary.tar.gz"
    write_cifar10_archive(archive)
    expect_fake_archive(monkeypatch, md5(archive), url)
    check_fake_cifar10(open_32("cifar10", str(tmp_path / "data")))
    archive.unlink()
    check_fake_cifar10(open_32("cifar10", str(tmp_path / "data")))


def test_downloads_go_to_a_cache_folder_when_no_path_is_given(tmp_path, server, monkeypatch):
    folder, url = server
    archive = folder / "cifar-10-binary.tar.gz"
    write_cifar10_archive(archive)
    expect_fake_archive(monkeypatch, md5(archive), url)
    monkeypatch.setattr(cifar.pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    check_fake_cifar10(open_32("cifar10"))
    assert (tmp_path / "cache" / "resnet_jax" / "cifar10" / "cifar-10-binary.tar.gz").exists()


def test_a_download_with_a_wrong_checksum_is_refused(tmp_path, server, monkeypatch):
    folder, url = server
    write_cifar10_archive(folder / "cifar-10-binary.tar.gz")
    expect_fake_archive(monkeypatch, "0" * 32, url)
    with pytest.raises(DataError, match=r"could not be downloaded from .*its checksum is wrong"):
        open_32("cifar10", str(tmp_path / "data"))
    assert not (tmp_path / "data" / "cifar-10-binary.tar.gz").exists()


def test_a_failed_download_says_which_file_from_where_and_where_to_put_it(tmp_path, monkeypatch):
    expect_fake_archive(monkeypatch, "0" * 32)
    with pytest.raises(DataError) as error:
        open_32("cifar10", str(tmp_path))
    assert "cifar-10-binary.tar.gz could not be downloaded from http://127.0.0.1:9/" in str(error.value)
    assert f"put it into {tmp_path}" in str(error.value)


def test_cifar_checksums_are_the_official_ones():
    assert cifar.CIFAR["cifar10"].md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert cifar.CIFAR["cifar100"].md5 == "03b5dce01913d631647c71ecec9e9cb8"


@pytest.mark.parametrize("content", [b"", cifar_record([1], 1, 2, 3)[:-1]], ids=["empty", "cut off"])
def test_damaged_cifar_file_is_named(tmp_path, content):
    write(tmp_path, {**cifar10_files(), "data_batch_4.bin": content})
    with pytest.raises(DataError, match=r"data_batch_4.bin of .* bytes, which is no whole number of records of 3073"):
        open_32("cifar10", str(tmp_path))


def test_missing_cifar_file_is_named(tmp_path):
    write(tmp_path, cifar10_files())
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_2.bin"):
        open_32("cifar10", str(tmp_path))


def test_impossible_cifar_label_is_refused(tmp_path):
    write(tmp_path, {**cifar10_files(), "test_batch.bin": cifar_record([10], 1, 2, 3)})
    with pytest.raises(DataError, match="label 10, but there are only 10 classes"):
        open_32("cifar10", str(tmp_path))


@needs_shared
def test_real_cifar10_has_its_images_labels_and_statistics(tmp_path):
    runpy.run_path(str(SHARED / "tools" / "unpack_cifar10.py"))["main"](tmp_path)
    dataset = open_32("cifar10", str(tmp_path))
    assert dataset.train.images.shape == (50000, 32, 32, 3)
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    # The first training image is a frog, the second a truck; the first test image is a cat, then come two ships.
    assert dataset.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert dataset.test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    # The frog's first pixel, as every CIFAR-10 tutorial prints it.
    assert dataset.train.images[0, 0, 0].tolist() == [59, 62, 63]
    mean = [float(dataset.train.images[..., channel].mean()) / 255 for channel in range(3)]
    assert dataset.mean == pytest.approx(mean, abs=2e-4)


# Fashion-MNIST


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def fashion_files():
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    labels = np.array([9, 0, 4], np.uint8)
    return {
        "train-images-idx3-ubyte": idx(images),
        "train-labels-idx1-ubyte": idx(labels),
        "t10k-images-idx3-ubyte": idx(images[:1]),
        "t10k-labels-idx1-ubyte": idx(labels[:1]),
    }


def test_unpacked_fashion_mnist_is_read(tmp_path):
    write(tmp_path, fashion_files())
    dataset = open_32("fashion_mnist", str(tmp_path))
    assert dataset.train.labels.tolist() == [9, 0, 4]
    image, label = dataset.train[1]
    assert (image.shape, image.dtype, label) == ((28, 28, 1), np.uint8, 0)
    # The second image begins with value 784, modulo 256.
    assert image[0, :3, 0].tolist() == [16, 17, 18]
    assert image[1, 0, 0] == 44
    assert dataset.classes[9] == "Ankle boot"
    assert (dataset.mean, dataset.std) == ((0.2860,), (0.3530,))


def test_fashion_mnist_is_downloaded_and_verified(tmp_path, server, monkeypatch):
    folder, url = server
    monkeypatch.setattr(cifar, "FASHION_MNIST_URL", url)
    for name, content in fashion_files().items():
        target = folder / f"{name}.gz"
        target.write_bytes(gzip.compress(content))
        monkeypatch.setitem(cifar.FASHION_MNIST_MD5, target.name, md5(target))
    dataset = open_32("fashion_mnist", str(tmp_path / "data"))
    assert dataset.train.labels.tolist() == [9, 0, 4]
    assert len(list((tmp_path / "data").iterdir())) == 4


def test_fashion_mnist_archive_with_a_wrong_checksum_is_refused(tmp_path):
    write(tmp_path, {f"{name}.gz": gzip.compress(content) for name, content in fashion_files().items()})
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is not the official file .*8d4fb7e6"):
        open_32("fashion_mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda content: b"\0\0\x0d" + content[3:], "is not an idx file of bytes in 3 dim"),
        (
            "t10k-labels-idx1-ubyte",
            lambda content: content[:3] + b"\3" + content[4:],
            "is not an idx file of bytes in 1",
        ),
        ("t10k-images-idx3-ubyte", lambda content: content[:10], "is not an idx file"),
        ("train-images-idx3-ubyte", lambda content: content[:-1], "cut off or too long"),
        ("train-labels-idx1-ubyte", lambda content: content + b"\0", "cut off or too long"),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x0a", "label 10, but there are only 10 classes"),
        ("t10k-labels-idx1-ubyte", lambda _: idx(np.zeros(2, np.uint8)), "1 t10k images but 2 labels"),
    ],
)
def test_damaged_fashion_mnist_file_is_refused(tmp_path, name, change, message):
    files = fashion_files()
    write(tmp_path, {**files, name: change(files[name])})
    with pytest.raises(DataError, match=message) as error:
        open_32("fashion_mnist", str(tmp_path))
    assert name[:4] in str(error.value)


@needs_shared
def test_real_fashion_mnist_is_official_and_has_its_statistics():
    # From the parent folder; reading it verifies the four official checksums.
    dataset = open_32("fashion_mnist", str(SHARED / "data"))
    assert dataset.train.images.shape == (60000, 28, 28, 1)
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert dataset.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert dataset.mean == pytest.approx((dataset.train.images.mean() / 255,), abs=5e-5)
    assert dataset.std == pytest.approx((dataset.train.images.std() / 255,), abs=5e-5)


# Folder


def write_image_folder(root, test="val", test_classes=("cat", "dog")):
    files = {"train/dog/b.jpg": b"dog b", "train/dog/a.PNG": b"dog a", "train/cat/deep/z.jpeg": b"cat z"}
    ignored = {"train/cat/notes.txt": b"", "train/cat/._z.jpg": b"", "train/.cache/x.jpg": b"", "train/list.jpg": b""}
    tests = {f"{test}/{name}/0.webp": f"{name} test".encode() for name in test_classes}
    for name, content in (files | ignored | tests).items():
        write((root / name).parent, {pathlib.Path(name).name: content})


@pytest.mark.parametrize("test", ["val", "valid", "validation", "test"])
def test_folder_gives_files_in_the_order_of_classes_and_names(tmp_path, test):
    write_image_folder(tmp_path, test)
    dataset = open_32("folder", str(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert [dataset.train[i] for i in range(len(dataset.train))] == [(b"cat z", 0), (b"dog a", 1), (b"dog b", 1)]
    assert [dataset.test[i] for i in range(len(dataset.test))] == [(b"cat test", 0), (b"dog test", 1)]
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert dataset.std == (0.229, 0.224, 0.225)


def test_folder_travels_to_worker_processes(tmp_path):
    write_image_folder(tmp_path)
    assert pickle.loads(pickle.dumps(open_32("folder", str(tmp_path)).train))[np.int64(1)] == (b"dog a", 1)


def test_folder_without_a_path_is_refused():
    with pytest.raises(DataError, match=r"set data.path to the folder that holds train/ and val/"):
        open_32("folder")


def test_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        open_32("folder", str(tmp_path / "nowhere"))


def test_folder_without_splits_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"must hold train/ and val/ \(or valid/, validation/, test/\).*it holds train"):
        open_32("folder", str(tmp_path))


def test_folder_without_classes_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"There are no images in .*train"):
        open_32("folder", str(tmp_path))


def test_folder_with_an_empty_class_is_refused(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "val" / "dog" / "0.webp").unlink()
    with pytest.raises(DataError, match=r"There are no images in .*val for dog: add files ending in .jpg"):
        open_32("folder", str(tmp_path))


def test_folder_whose_splits_differ_in_classes_is_refused(tmp_path):
    write_image_folder(tmp_path, test_classes=("cat", "dog", "horse"))
    with pytest.raises(DataError, match="only in one: horse"):
        open_32("folder", str(tmp_path))


def paths(split):
    return [split.name(i) for i in range(len(split))]


def test_folder_takes_valid_and_not_test_to_select_checkpoints_by(tmp_path):
    write_image_folder(tmp_path, "test")
    write_image_folder(tmp_path, "valid")
    dataset = open_32("folder", str(tmp_path))
    assert paths(dataset.test) == ["valid/cat/0.webp", "valid/dog/0.webp"]
    assert dataset.description == (
        f"Data: train on the 3 images in {tmp_path / 'train'}, evaluate on the 2 images in {tmp_path / 'valid'}; "
        "2 classes.",
    )


def test_folder_with_two_validation_splits_is_refused(tmp_path):
    write_image_folder(tmp_path, "val")
    write_image_folder(tmp_path, "valid")
    with pytest.raises(DataError, match="holds val, valid, any of which may be for validation: keep one"):
        open_32("folder", str(tmp_path))


def test_folder_reads_nothing_of_hidden_folders_inside_a_class(tmp_path):
    write_image_folder(tmp_path)
    before = paths(open_32("folder", str(tmp_path)).train)
    write(tmp_path / "train" / "dog" / ".ipynb_checkpoints", {"a-checkpoint.jpg": b"copy"})
    assert paths(open_32("folder", str(tmp_path)).train) == before


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat", "../../.."])
def test_folder_counts_no_image_twice_through_links_that_lead_up_or_to_another_class(tmp_path, target):
    root = tmp_path / "deep" / "data"
    write_image_folder(root)
    before = paths(open_32("folder", str(root)).train)
    (root / "train" / "dog" / "deep").mkdir()
    (root / "train" / "dog" / "link").symlink_to(target)
    (root / "train" / "dog" / "deep" / "up").symlink_to("..")
    dataset = open_32("folder", str(root))
    assert paths(dataset.train) == before
    assert "dog/link" in dataset.description[1] and "dog/deep/up" in dataset.description[1]


def test_folder_follows_links_to_folders_elsewhere_each_once_in_a_class(tmp_path):
    write_image_folder(tmp_path / "data")
    write(tmp_path / "elsewhere", {"y.jpg": b"more"})
    for name in ("first", "second"):
        (tmp_path / "data" / "train" / "dog" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data" / "train" / "dog")
    found = paths(open_32("folder", str(tmp_path / "data")).train)
    assert found == ["train/cat/deep/z.jpeg", "train/dog/a.PNG", "train/dog/b.jpg", "train/dog/first/y.jpg"]


def test_folder_whose_class_is_a_link_that_leads_nowhere_is_refused(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "train" / "bird").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="lead nowhere: bird"):
        open_32("folder", str(tmp_path))


def test_folder_of_a_class_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("train/dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/dog cannot be read \(Permission denied\)"):
        open_32("folder", str(tmp_path))


def test_folder_with_a_validation_split_alone_has_nothing_to_train_on(tmp_path):
    write_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    dataset = open_32("folder", str(tmp_path))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (0, 2, ("cat", "dog"))
    assert dataset.description == (f"Data: evaluate on the 2 images in {tmp_path / 'val'}; 2 classes.",)


@pytest.mark.parametrize("source", ["tfds:mnist", "tfds:gs://bucket/mnist"])
def test_tfds_at_an_address_is_refused_in_a_sentence(source):
    with pytest.raises(DataError, match=r"gs://bucket/\w+ is an address: copy the data set"):
        open_32(source, None if "gs:" in source else "gs://bucket/data")


# A share of the training examples


@pytest.mark.parametrize("fraction, count", [(1.0, 1438), (0.5, 719), (0.1, 144), (1e-9, 1)])
def test_a_share_of_the_examples_is_that_many_of_them_in_their_order(fraction, count):
    whole = open_32("digits").train
    part = share(whole, fraction, 0)
    assert len(part) == len(part.images) == count
    by_content = {image.tobytes(): number for number, image in enumerate(whole.images)}
    numbers = [by_content[image.tobytes()] for image in part.images]
    assert numbers == sorted(numbers)
    np.testing.assert_array_equal(part.labels, whole.labels[numbers])


def test_a_share_is_drawn_by_the_seed_and_lies_in_every_larger_one(tmp_path):
    for number in range(200):
        write(tmp_path / "train" / "ab"[number % 2], {f"{number}.jpg": b""})
    write(tmp_path / "val" / "a", {"0.jpg": b""})
    write(tmp_path / "val" / "b", {"0.jpg": b""})
    split = open_32("folder", str(tmp_path)).train
    quarter, half = (pickle.loads(pickle.dumps(share(split, fraction, 3))) for fraction in (0.25, 0.5))
    assert set(paths(quarter)) < set(paths(half)) < set(paths(split)) and len(half) == 100
    assert paths(share(split, 0.25, 3)) == paths(quarter) != paths(share(split, 0.25, 4))
    assert [quarter[i] for i in range(50)] == [(b"", int("/b/" in name)) for name in paths(quarter)]
    # By even chance: of 1,000 shares of a tenth, each example is in about 100, with a deviation of 9.5.
    counts = collections.Counter(name for seed in range(1000) for name in paths(share(split, 0.1, seed)))
    assert len(counts) == 200 and all(50 < count < 150 for count in counts.values())


# TensorFlow Datasets


def write_tfds(root, config="", file_format="array_record", splits=("train", "test"), image_key="image"):
    """Writes what `download_and_prepare` leaves behind, with an image of constant colour for each example."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / "tiny" / config / "1.0.0"
    folder.mkdir(parents=True)
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    features = tfds.features.FeaturesDict({image_key: image, "label": tfds.features.ClassLabel(names=["cat", "dog"])})
    features.save_config(folder)
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": file_format, "splits": []}
    for number, split in enumerate(splits):
        writer = ArrayRecordWriter(str(folder / f"tiny-{split}.{file_format}-00000-of-00001"), "group_size:1")
        for label in (0, 1, 1):
            png = io.BytesIO()
            Image.new("RGB", (5, 4), (number, label, 255)).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature[image_key].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info["splits"].append({"name": split, "shardLengths": ["3"], "numBytes": "1", "filepathTemplate": template})
    (folder / "dataset_info.json").write_text(json.dumps({**info, **({"configName": config} if config else {})}))


@pytest.mark.parametrize(
    ("source", "config"),
    [("tfds:tiny", ""), ("tfds:tiny:1.0.0", ""), ("tfds:tiny:large", "large"), ("tfds:tiny/large", "large")],
)
def test_tfds_gives_encoded_images_and_labels(tmp_path, source, config):
    write_tfds(tmp_path, config)
    dataset = open_32(source, str(tmp_path))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (3, 3, ("cat", "dog"))
    for number, split in enumerate((dataset.train, pickle.loads(pickle.dumps(dataset.test)))):
        encoded, label = split[2]
        assert isinstance(encoded, bytes)
        assert Image.open(io.BytesIO(encoded)).getpixel((0, 0)) == (number, 1, 255)
        assert label == 1


def test_tfds_prefers_validation_to_test(tmp_path):
    write_tfds(tmp_path, splits=("train", "test", "validation"))
    encoded, _ = open_32("tfds:tiny", str(tmp_path)).test[0]
    assert Image.open(io.BytesIO(encoded)).getpixel((0, 0))[0] == 2


def test_tfds_that_is_not_prepared_tells_the_command(tmp_path):
    with pytest.raises(DataError) as error:
        open_32("tfds:mnist", str(tmp_path))
    expected = f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert expected in str(error.value)


@pytest.mark.parametrize("source", ["tfds:no_such_thing", "tfds:imagenette:no_such_config", "tfds:mnist:9.9.9"])
def test_tfds_that_does_not_exist_is_named_in_one_line(tmp_path, source):
    with pytest.raises(DataError, match=r"TFDS cannot open 'no_such_thing'|no_such_config|9.9.9") as error:
        open_32(source, str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_format": "tfrecord"}, "without random access.*array_record"),
        ({"splits": ("train",)}, "has the splits train, but train and validation or test are needed"),
        ({"image_key": "picture"}, "has no image with a label"),
    ],
)
def test_tfds_that_cannot_be_used_says_why(tmp_path, changes, message):
    write_tfds(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        open_32("tfds:tiny", str(tmp_path))


def test_tensorflow_is_never_imported(tmp_path):
    write_tfds(tmp_path)
    code = (
        "import sys; from resnet_jax.data.sources import open_dataset; "
        f"open_dataset('tfds:tiny', {str(tmp_path)!r}, image_size=32).train[0]; "
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_heavy_libraries_are_imported_only_when_needed():
    code = "import sys, resnet_jax.data.sources; assert not {'tensorflow_datasets', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
