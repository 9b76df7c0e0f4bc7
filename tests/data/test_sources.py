"""Sources, reading small files in the published layouts."""

import gzip
import hashlib
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.io

from helpers.cifar100 import python2
from helpers.sources import assert_holds, images, refused, with_field
from supsup_jax import data
from supsup_jax.data import cifar, idx
from supsup_jax.data import mnist as mnist_files
from supsup_jax.data.sources import cifar as cifar_source
from supsup_jax.data.sources import mnist as mnist_source
from supsup_jax.data.sources import svhn as svhn_source
from supsup_jax.data.statistics import mean_and_std


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


# Fashion-MNIST, KMNIST and EMNIST


@pytest.fixture(params=["FashionMNIST", "KMNIST"])
def like_mnist(request, monkeypatch, tmp_path):
    """Return a source, its folder, and the arrays of its gzipped files: six training and three test images."""
    arrays = {
        idx.TRAIN_IMAGES: images(6, 28, 28),
        idx.TRAIN_LABELS: np.arange(6, dtype=np.uint8),
        idx.TEST_IMAGES: images(3, 28, 28),
        idx.TEST_LABELS: np.arange(3, dtype=np.uint8),
    }
    folder = tmp_path / request.param / "raw"
    folder.mkdir(parents=True)
    members = {}
    for name, array in arrays.items():
        packed = gzip.compress(idx_bytes(array))
        (folder / f"{name}.gz").write_bytes(packed)
        members[name] = idx.IdxFile(array.shape, archive=f"md5:{hashlib.md5(packed).hexdigest()}")
    table = {"FashionMNIST": "FASHION_MNIST", "KMNIST": "KUZUSHIJI_MNIST"}[request.param]
    monkeypatch.setattr(mnist_source, table, replace(getattr(mnist_source, table), members=members))
    return getattr(data, request.param)(), folder, arrays


def test_data_sets_like_mnist_are_read(like_mnist, tmp_path):
    source, _, arrays = like_mnist
    assert source.is_present(tmp_path)
    dataset = source.load(tmp_path)
    assert_holds(dataset.train, arrays[idx.TRAIN_IMAGES][..., None], arrays[idx.TRAIN_LABELS])
    assert_holds(dataset.test, arrays[idx.TEST_IMAGES][..., None], arrays[idx.TEST_LABELS])
    published = {"fashion_mnist": ((0.2860,), (0.3530,)), "kmnist": ((0.1918,), (0.3483,))}
    assert (dataset.mean, dataset.std) == published[source.name]


def test_unpacked_files_are_read(like_mnist, tmp_path):
    source, folder, arrays = like_mnist
    for path in folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert_holds(source.load(tmp_path).test, arrays[idx.TEST_IMAGES][..., None], arrays[idx.TEST_LABELS])


def dotted(name):
    return name.replace("-idx", ".idx")


KAGGLES = {
    "dotted": dotted,
    "dotted and gzipped": lambda name: f"{dotted(name)}.gz",
    "in folders": lambda name: f"{name}/{name}",
    "dotted in folders": lambda name: f"{name}/{dotted(name)}",
    "in dotted folders": lambda name: f"{dotted(name)}/{dotted(name)}",
    "gzipped in folders": lambda name: f"{name}/{name}.gz",
}


@pytest.mark.parametrize("names", KAGGLES)
def test_files_with_kaggles_names_are_read(like_mnist, tmp_path, names):
    source, folder, arrays = like_mnist
    for path in list(folder.glob("*.gz")):
        content, target = path.read_bytes(), folder / KAGGLES[names](path.stem)
        path.unlink()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content if target.suffix == ".gz" else gzip.decompress(content))
    assert source.is_present(tmp_path)
    assert_holds(source.load(tmp_path).train, arrays[idx.TRAIN_IMAGES][..., None], arrays[idx.TRAIN_LABELS])


def test_mnist_with_kaggles_names_is_verified_by_content(tmp_path, monkeypatch):
    known, arrays = {}, {idx.TRAIN_IMAGES: images(6, 28, 28), idx.TRAIN_LABELS: np.arange(6, dtype=np.uint8)}
    arrays |= {idx.TEST_IMAGES: images(2, 28, 28), idx.TEST_LABELS: np.arange(2, dtype=np.uint8)}
    for name, array in arrays.items():
        (tmp_path / dotted(name)).write_bytes(idx_bytes(array))
        known[name] = array.shape, "", hashlib.sha256(idx_bytes(array)).hexdigest()
    monkeypatch.setattr(mnist_files, "_FILES", known)
    assert data.MNIST().is_present(tmp_path)
    assert_holds(data.MNIST().load(tmp_path).test, arrays[idx.TEST_IMAGES][..., None], [0, 1])
    (tmp_path / dotted(idx.TEST_LABELS)).write_bytes(idx_bytes(np.ones(2, np.uint8)))
    refused(lambda: data.MNIST().load(tmp_path), dotted(idx.TEST_LABELS), "checksum mismatch")


def test_a_gzipped_file_with_a_wrong_checksum_is_refused(like_mnist, tmp_path):
    source, folder, arrays = like_mnist
    path = folder / f"{idx.TRAIN_IMAGES}.gz"
    path.write_bytes(gzip.compress(idx_bytes(255 - arrays[idx.TRAIN_IMAGES])))
    refused(lambda: source.load(tmp_path), str(path), "checksum mismatch", "replace it, from http")


def test_checksums_are_those_of_torchvision():
    assert mnist_source.FASHION_MNIST.members[idx.TRAIN_IMAGES].archive == "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"
    assert mnist_source.KUZUSHIJI_MNIST.members[idx.TEST_LABELS].archive == "md5:7320c461ea6c1c855c0b718fb2a4b134"
    assert mnist_source.KUZUSHIJI_MNIST.members[idx.TEST_IMAGES].shape == (10000, 28, 28)


@pytest.fixture
def emnist(tmp_path, monkeypatch):
    """Write EMNIST's letters, transposed and with labels from 1 as published, and return the upright images."""
    monkeypatch.setitem(mnist_source.EMNIST_SIZES, "letters", (4, 2))
    upright = {"train": images(4, 28, 28), "test": images(2, 28, 28)}
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for split, array in upright.items():
        labels = np.arange(1, len(array) + 1, dtype=np.uint8)
        for kind, content in (("images-idx3", array.swapaxes(1, 2).copy()), ("labels-idx1", labels)):
            (folder / f"emnist-letters-{split}-{kind}-ubyte").write_bytes(idx_bytes(content))
    return upright


def test_emnist_is_upright_and_labels_of_letters_start_at_0(tmp_path, emnist):
    dataset = data.EMNIST("letters").load(tmp_path)
    assert_holds(dataset.train, emnist["train"][..., None], range(4))
    assert_holds(dataset.test, emnist["test"][..., None], range(2))
    assert dataset.mean == pytest.approx((emnist["train"].mean() / 255,))
    assert dataset.std == pytest.approx((emnist["train"].std() / 255,))


@pytest.mark.parametrize("place", ["emnist_source_files", "emnist/gzip", "."])
def test_emnist_is_read_from_kaggles_folders(tmp_path, emnist, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "EMNIST/raw").iterdir():
        path.rename(tmp_path / place / dotted(path.name))
    assert data.EMNIST("letters").is_present(tmp_path)
    assert_holds(data.EMNIST("letters").load(tmp_path).test, emnist["test"][..., None], range(2))


def test_the_error_for_emnist_names_missing_files(tmp_path):
    assert not data.EMNIST().is_present(tmp_path)
    refused(lambda: data.EMNIST().load(tmp_path), "emnist-balanced-train-images-idx3-ubyte", "gzip.zip", "--data")
    refused(lambda: with_field(data.EMNIST(), "split", "upper"), "split 'upper' does not exist", "balanced, byclass")


# CIFAR-10 and SVHN


@pytest.fixture(params=["folder", "archive"])
def cifar10(request, tmp_path, monkeypatch):
    """Write CIFAR-10 with two images per file, as a folder or an archive, and return the images by file."""
    pixels = {f"data_batch_{number}": images(2, 32, 32, 3) for number in range(1, 6)} | {
        "test_batch": images(2, 32, 32, 3)
    }
    known, folder = {}, tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, (name, batch) in enumerate(pixels.items()):
        content = {"data": batch.transpose(0, 3, 1, 2).reshape(2, -1), "labels": [number, 9 - number]}
        (folder / name).write_bytes(python2(content))
        known[name] = (hashlib.md5((folder / name).read_bytes()).hexdigest(),)
    if request.param == "archive":
        with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
            for name in reversed(pixels):  # a different order from that of the batches
                archive.add(folder / name, f"{folder.name}/{name}")
                (folder / name).unlink()
    small = replace(cifar_source.CIFAR10_FILES, sizes={"train": 10, "test": 2}, known=known)
    monkeypatch.setattr(cifar_source, "CIFAR10_FILES", small)
    return list(pixels.values())


def test_cifar10_is_read_in_order(tmp_path, cifar10):
    assert data.CIFAR10().is_present(tmp_path)
    dataset = data.load("cifar10", tmp_path)
    assert_holds(dataset.train, np.concatenate(cifar10[:5]), [0, 9, 1, 8, 2, 7, 3, 6, 4, 5])
    assert_holds(dataset.test, cifar10[5], [5, 4])
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_cifar10_with_a_wrong_checksum_is_refused(tmp_path, cifar10, monkeypatch):
    known = cifar_source.CIFAR10_FILES.known | {"data_batch_3": ("0" * 32,)}
    monkeypatch.setattr(cifar_source, "CIFAR10_FILES", replace(cifar_source.CIFAR10_FILES, known=known))
    refused(lambda: data.CIFAR10().load(tmp_path), "cannot be read as CIFAR-10", "checksum", "ImageFolder or NPZ")


def test_cifar10_has_its_published_archive_and_sizes():
    assert cifar_source.CIFAR10_FILES.archive_hash == "md5:c58f30108f718f92721af3b95e74349a"
    assert cifar_source.CIFAR10_FILES.url == cifar.URL
    assert cifar_source.CIFAR10_FILES.sizes == {"train": 50000, "test": 10000}


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """Write SVHN with three images per file, labelled 1, 10 and 2, and return the images."""
    pixels, files = {}, {}
    for split in ("train", "test"):
        pixels[split] = images(3, 32, 32, 3)
        path = tmp_path / f"{split}_32x32.mat"
        content = {"X": pixels[split].transpose(1, 2, 3, 0), "y": np.array([[1], [10], [2]], np.uint8)}
        scipy.io.savemat(path, content, do_compression=True)
        files[split] = path.name, f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}", 3
    monkeypatch.setattr(svhn_source, "FILES", files)
    return pixels


def test_label_10_of_svhn_is_the_digit_0(tmp_path, svhn):
    assert data.SVHN().is_present(tmp_path)
    dataset = data.SVHN().load(tmp_path)
    for split in ("train", "test"):
        assert_holds(getattr(dataset, split), svhn[split], [1, 0, 2])
    assert dataset.mean == (0.4377, 0.4438, 0.4728)


@pytest.mark.usefixtures("svhn")
def test_a_damaged_svhn_is_refused(tmp_path):
    with (tmp_path / "test_32x32.mat").open("ab") as file:
        file.write(b"more")
    refused(lambda: data.SVHN().load(tmp_path), "test_32x32.mat", "checksum", "ufldl.stanford.edu")


def test_published_sources_have_names_and_check_their_fields():
    assert set(data.SOURCES) >= {"mnist", "cifar100", "imagenet", "digits", "fashion_mnist", "cifar10", "svhn"}
    assert all(source().name == name for name, source in data.SOURCES.items())
    assert data.ImageNet().shorter_side == 256 and data.ImageNet(64, cache_size=70).shorter_side == 70
    refused(lambda: data.ImageNet(image_size=0), "image_size 0 must be at least 1")
    refused(lambda: data.ImageNet(cache_size=-1), "cache_size -1 must be at least 1")


def test_statistics_are_exact():
    pixels = images(2000, 3, 3, 2)
    mean, std = mean_and_std(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(mean_and_std(pixels.astype(np.float32))[1], std, rtol=1e-9)
