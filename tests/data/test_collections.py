"""Sources and task families of related work: superclasses, TinyImageNet, notMNIST, several data sets as one."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from PIL import Image

from helpers.sources import assert_holds, images, refused, with_field
from supsup_jax import data, register
from supsup_jax.components import register_built_in
from supsup_jax.data.concatenation import shaped

DIGITS = data.Digits()


def rows_of(benchmark, dataset, task):
    description = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, 3, [task]))
    return description.train[: description.train_size], description.labels


def test_classes_are_assigned_in_a_given_order():
    dataset = DIGITS.load()
    order = (9, 1, 8, 0, 2, 3, 4, 5, 6, 7)
    benchmark = data.Split(DIGITS, 2, order=order).bind(dataset)
    rows, labels = rows_of(benchmark, dataset, 1)
    assert set(dataset.train.labels[rows]) == {8, 0}
    assert (labels[8], labels[0]) == (0, 1)
    assert hash(benchmark) == hash(data.Split(DIGITS, 2, order=list(order)).bind(dataset))
    for wrong in (order[:-1], (*order[:-1], 9), (*order[:-1], 10)):
        refused(lambda wrong=wrong: data.Split(DIGITS, 2, order=wrong).bind(dataset), "each of the 10 classes", "once")


def test_a_superclass_is_a_task():
    """The fine labels of some superclasses, as published."""
    order = data.CIFAR100Superclasses().order
    tasks = {number: set(order[5 * number : 5 * number + 5]) for number in range(20)}
    assert sorted(order) == list(range(100))
    assert tasks[0] == {4, 30, 55, 72, 95}  # beaver, dolphin, otter, seal, whale
    assert tasks[2] == {54, 62, 70, 82, 92}  # orchid, poppy, rose, sunflower, tulip
    assert tasks[5] == {22, 39, 40, 86, 87}  # clock, keyboard, lamp, telephone, television
    assert tasks[14] == {2, 11, 35, 46, 98}  # baby, boy, girl, man, woman
    assert tasks[17] == {47, 52, 56, 59, 96}  # maple, oak, palm, pine, willow
    assert tasks[19] == {41, 69, 81, 85, 89}  # lawn mower, rocket, streetcar, tank, tractor


def test_presets_of_related_work():
    expected = data.Split(data.CIFAR10(), 2, augment="crop_flip", num_tasks=5)
    assert vars(data.SplitCIFAR10()) == vars(expected)
    expected = data.Split(data.TinyImageNet(), 5, order="drawn", augment="crop_flip", num_tasks=40)
    assert vars(data.SplitTinyImageNet()) == vars(expected)
    five = data.FiveDatasets()
    assert five.source.sources == ("cifar10", "mnist", "svhn", "fashion_mnist", "notmnist")
    assert vars(five) == vars(data.Split(five.source, 10, num_tasks=5))


# TinyImageNet


def save(path, shade, size=(64, 64), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 255 - shade)).save(path)


@pytest.fixture
def tiny(tmp_path):
    """Write a TinyImageNet of three classes in the archive's layout, with one image in grey."""
    root = tmp_path / "tiny-imagenet-200"
    rows = []
    for label in range(3):
        wnid = f"n0000000{label}"
        for number in range(4):
            mode = "L" if label == number == 0 else "RGB"
            save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 80 * label, mode=mode)
        save(root / "val/images" / f"val_{2 - label}.JPEG", 80 * label)
        rows.append(f"val_{2 - label}.JPEG\t{wnid}\t0\t0\t62\t62\n")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("a box\n")
    (root / "val/val_annotations.txt").write_text("".join(rows))
    (root / "test/images").mkdir(parents=True)
    return root


def test_tinyimagenet_is_read_from_its_archive(tiny):
    source = data.TinyImageNet()
    assert source.is_present(tiny.parent) and data.TinyImageNet().is_present(tiny)
    dataset = source.load(tiny.parent)
    assert dataset.train.images.shape == (12, 64, 64, 3) and dataset.train.images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.labels, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(dataset.test.labels, [0, 1, 2])
    np.testing.assert_allclose(dataset.test.images[:, 5, 5, 0], [0, 80, 160], atol=3)
    assert data.TinyImageNet(image_size=32).load(tiny).image_shape == (32, 32, 3)
    benchmark = data.SplitTinyImageNet(source, classes_per_task=1, num_tasks=3).bind(dataset)
    assert benchmark.max_tasks == 3


def test_sorted_validation_images_of_tinyimagenet_are_read(tiny):
    for row in (tiny / "val/val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = row.split("\t")
        (tiny / "val" / wnid / "images").mkdir(parents=True)
        (tiny / "val/images" / name).rename(tiny / "val" / wnid / "images" / name)
    (tiny / "val/images").rmdir()
    np.testing.assert_array_equal(data.TinyImageNet().load(tiny).test.labels, [0, 1, 2])


def test_an_incomplete_tinyimagenet_is_named(tiny, tmp_path):
    refused(lambda: data.TinyImageNet().load(tmp_path / "nowhere"), "lacks train or val", "tiny-imagenet-200.zip")
    refused(lambda: data.TinyImageNet(0), "image_size 0: must be from 1")
    table = tiny / "val/val_annotations.txt"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    refused(lambda: data.TinyImageNet().load(tiny), "val_annotations.txt has no class for val_2.JPEG")
    table.unlink()
    refused(lambda: data.TinyImageNet().load(tiny), "val_annotations.txt cannot be read", "tiny-imagenet-200.zip")


# notMNIST


def write_letters(root, count):
    for label, letter in enumerate("ABCDEFGHIJ"):
        for number in range(count):
            save(root / letter / f"{number:02}.png", 20 * label + number, (28, 28), "L")


def test_every_tenth_image_of_notmnist_is_a_test_image(tmp_path):
    write_letters(tmp_path / "notMNIST_small", 20)
    damaged = tmp_path / "notMNIST_small/F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png"
    damaged.write_bytes(b"")
    assert data.NotMNIST().is_present(tmp_path)
    dataset = data.NotMNIST().load(tmp_path)
    assert dataset.train.images.shape == (180, 28, 28, 1) and dataset.test.images.shape == (20, 28, 28, 1)
    np.testing.assert_array_equal(dataset.test.labels, np.repeat(range(10), 2))
    np.testing.assert_array_equal(dataset.test.images[:4, 0, 0, 0], [9, 19, 29, 39])


def test_a_split_notmnist_is_read(tmp_path):
    for split, count in (("Train", 3), ("Test", 1)):
        write_letters(tmp_path / "notMNIST" / split, count)
    dataset = data.NotMNIST().load(tmp_path)
    assert len(dataset.train.labels) == 30 and len(dataset.test.labels) == 10


def test_a_missing_notmnist_is_named(tmp_path):
    assert not data.NotMNIST().is_present(tmp_path)
    refused(lambda: data.NotMNIST().load(tmp_path), "notMNIST_small does not exist", "notMNIST_small.tar.gz", "--data")


# Several data sets as one


def write_npz(path, shape, classes):
    labels = np.arange(2 * classes) % classes
    arrays = {"train_images": images(2 * classes, *shape), "train_labels": labels}
    arrays |= {"test_images": images(classes, *shape), "test_labels": np.arange(classes)}
    np.savez(path, **arrays)
    return arrays


def test_data_sets_are_concatenated(tmp_path):
    colour, grey = (write_npz(tmp_path / f"{name}.npz", shape, 2) for name, shape in
                    (("colour", (8, 8, 3)), ("grey", (5, 6))))  # fmt: skip
    source = data.Concatenated(("npz:colour.npz", "digits", "npz:grey.npz"), image_size=8)
    assert source.is_present(tmp_path) and hash(source) == hash(data.Concatenated(list(source.sources), 8))
    dataset = source.load(tmp_path)
    digits = DIGITS.load()
    assert_holds(data.Samples(dataset.train.images[:4], dataset.train.labels[:4]), colour["train_images"], [0, 1, 0, 1])
    count = len(digits.train.labels)
    middle = slice(4, 4 + count)
    np.testing.assert_array_equal(dataset.train.images[middle], np.repeat(digits.train.images, 3, axis=-1))
    np.testing.assert_array_equal(dataset.train.labels[middle], digits.train.labels + 2)
    bordered = np.zeros((2, 8, 8, 3), np.uint8)
    bordered[:, 1:6, 1:7] = grey["test_images"][..., None]
    np.testing.assert_array_equal(dataset.test.images[-2:], bordered)
    np.testing.assert_array_equal(dataset.test.labels[-2:], [12, 13])
    np.testing.assert_allclose(dataset.mean, (dataset.train.images / 255).mean((0, 1, 2)), rtol=1e-9)
    assert dataset.num_classes == 14


def test_each_task_of_a_split_is_a_data_set(tmp_path):
    write_npz(tmp_path / "other.npz", (4, 4), 10)
    family = data.Split(data.Concatenated(("digits", "npz:other.npz"), 8, 1), 10)
    dataset = family.load(tmp_path)
    benchmark = family.bind(dataset)
    assert benchmark.max_tasks == 2 and benchmark.num_classes == 10
    rows, labels = rows_of(benchmark, dataset, 1)
    assert rows.tolist() == list(range(len(dataset.train.labels) - 20, len(dataset.train.labels)))
    np.testing.assert_array_equal(labels[10:], range(10))


def test_images_are_reduced_and_become_grey():
    pixels = np.broadcast_to(np.array([100, 50, 200], np.uint8), (2, 12, 20, 3))
    grey = np.asarray(Image.fromarray(pixels[0]).convert("L"))[0, 0]
    np.testing.assert_array_equal(shaped(pixels, 6, 1), np.full((2, 6, 6, 1), grey))
    np.testing.assert_array_equal(shaped(pixels, 6, 3), np.broadcast_to(pixels[0, 0, 0], (2, 6, 6, 3)))
    wide = np.zeros((1, 4, 12, 1), np.uint8)
    wide[:, :, 3:9] = 7  # the centre, which remains
    expected = np.zeros((1, 6, 6, 1), np.uint8)
    expected[:, 1:5] = 7
    np.testing.assert_array_equal(shaped(wide, 6, 1), expected)
    np.testing.assert_array_equal(shaped(np.full((1, 6, 6, 1), 9.7, np.float32), 6, 1), np.full((1, 6, 6, 1), 10))


def test_a_custom_source_is_concatenated_by_its_name(tmp_path):
    @register
    @dataclass(frozen=True)
    class Noise(data.Source):
        name = "concatenated-noise"

        def load(self, folder):
            pair = np.full((6, 4, 4, 3), 0.5), np.arange(6) % 2
            return data.Arrays(train=pair, test=pair).load(folder)

    dataset = data.Concatenated(("digits", Noise.name), image_size=8).load(tmp_path)
    np.testing.assert_array_equal(dataset.train.labels[-6:], 10 + np.arange(6) % 2)
    assert set(np.unique(dataset.train.images[-6:])) == {0, 128}


def test_invalid_concatenations_are_refused(tmp_path):
    register_built_in()
    refused(lambda: data.Concatenated(()), "sources (): give the name of at least one data set")
    refused(lambda: with_field(data.Concatenated(("mnist",)), "channels", 2), "channels 2: must be 1 or 3")
    for names, *words in [
        (["mnits"], "there is no source mnits; did you mean mnist?"),
        (["npz"], "source npz needs a value; give npz:VALUE, where VALUE is its path"),
        (["TFDS"], "give TFDS:VALUE, where VALUE is its name"),
        (["imagenet"], "source imagenet keeps its images on disk"),
        (["TFDS:../x"], "must be the name of a data set"),
    ]:
        refused(lambda names=names: data.Concatenated(names).load(tmp_path), *words)
