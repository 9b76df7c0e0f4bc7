"""Task families over any data set."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supsup_jax import UserError, data
from supsup_jax.data import families

DIGITS = data.Digits()


@pytest.fixture(autouse=True)
def forget_warnings():
    """Repeat warnings in every test."""
    families.warn.cache_clear()


def colours(labels, test_labels=None, seed=0):
    """Return a data set of 6 × 6 colour images with given labels."""
    rng = np.random.default_rng(seed)
    splits = []
    for given in (labels, labels if test_labels is None else test_labels):
        given = np.asarray(given)
        splits.append(data.Samples(rng.integers(0, 256, (len(given), 6, 6, 3), dtype=np.uint8), given))
    return data.Dataset(*splits, (0.0,) * 3, (1.0,) * 3)


def refused(call, *words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_presets_are_families_with_options():
    common = {"source": DIGITS}
    assert vars(data.PermutedMNIST()) == vars(data.Permuted(data.MNIST(), 250))
    assert vars(data.RotatedMNIST()) == vars(data.Rotated(data.MNIST(), 36, degrees=10))
    expected = data.Split(**common, classes_per_task=2, order="given", relabel=False, num_tasks=5)
    assert vars(data.SplitMNIST(**common)) == vars(expected)
    expected = data.Split(**common, classes_per_task=5, order="drawn", augment="crop_flip", num_tasks=20)
    assert vars(data.SplitCIFAR100(**common)) == vars(expected)
    expected = data.Split(data.ImageNet(), 10, order="fixed", augment="resized_crop", num_tasks=100)
    assert vars(data.SplitImageNet()) == vars(expected)


def test_benchmarks_are_hashable_and_independent_of_the_source():
    dataset = DIGITS.load()
    for family in (data.Permuted, data.Rotated, data.Split):
        bound = [family(source).bind(dataset) for source in (DIGITS, data.MNIST())]
        assert bound[0] == bound[1] and hash(bound[0]) == hash(bound[1])
        assert bound[0].image_shape == (8, 8, 1)


@pytest.mark.parametrize("family", [data.Permuted(DIGITS), data.Rotated(DIGITS, 4)])
def test_pixels_of_colour_images_move_together(family):
    dataset = colours([0, 1, 2, 3])
    benchmark = family.bind(dataset)
    (pixels,) = benchmark.tasks(dataset, 1, [1])
    seen, labels = benchmark.samples(dataset.train, jnp.asarray(pixels), jnp.arange(4), train=True)
    expected = dataset.train.images.reshape(4, 36, 3)[:, pixels].reshape(4, 6, 6, 3) / 255
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, [0, 1, 2, 3])
    if isinstance(family, data.Rotated):
        np.testing.assert_allclose(seen, np.rot90(dataset.train.images, axes=(1, 2)) / 255, atol=1e-6)


def test_angles_do_not_depend_on_the_number_of_tasks():
    assert data.Rotated(DIGITS, num_tasks=5).degrees == 72
    assert replace(data.Rotated(DIGITS), num_tasks=10).degrees == data.RotatedMNIST(num_tasks=4).degrees == 10
    assert data.Rotated(DIGITS, 3, degrees=90).bind(DIGITS.load()).max_tasks == 4
    refused(lambda: data.Rotated(DIGITS, 5, degrees=90).bind(DIGITS.load()), "num_tasks 5", "has 4 tasks")
    refused(lambda: data.Rotated(DIGITS, 361), "361 tasks cannot be a whole number of degrees apart")
    refused(lambda: data.Rotated(DIGITS, degrees=0), "degrees 0 must be from 1 to 360")


def labels_seen(family, dataset, seed=0, task=0):
    benchmark = family.bind(dataset)
    description = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, seed, [task]))
    size = int(benchmark.size(description, True))
    _, labels = benchmark.samples(dataset.train, description, jnp.arange(size), True)
    return np.asarray(dataset.train.labels)[description.train[:size]], np.asarray(labels)


@pytest.mark.parametrize(
    ("order", "seed", "expected"),
    [
        ("given", 5, [2, 3]),
        ("drawn", 5, np.random.RandomState(5).permutation(6)[2:4]),
        ("fixed", 5, np.random.RandomState(1).permutation(6)[2:4]),
    ],
)
@pytest.mark.parametrize("relabel", [True, False])
def test_classes_are_assigned_in_order_and_relabelled(order, seed, expected, relabel):
    dataset = colours(np.arange(24) % 6)
    family = data.Split(DIGITS, 2, order=order, relabel=relabel)
    classes, labels = labels_seen(family, dataset, seed, task=1)
    assert set(classes) == set(expected)
    np.testing.assert_array_equal(labels, [list(expected).index(c) for c in classes] if relabel else classes)
    assert family.bind(dataset).num_classes == (2 if relabel else 6)


def test_crops_and_flips_are_used_only_in_training():
    dataset = colours(np.arange(8) % 2)
    benchmark = data.Split(DIGITS, 2, augment="crop_flip").bind(dataset)
    task = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, 0, [0]))
    plain, _ = benchmark.samples(dataset.train, task, jnp.arange(8), True)
    varied, _ = benchmark.samples(dataset.train, task, jnp.arange(8), True, jax.random.split(jax.random.key(0), 8))
    np.testing.assert_allclose(plain, dataset.train.images / 255, atol=1e-6)
    assert not np.allclose(plain, varied)


def test_unused_classes_are_named_once(capsys):
    dataset = colours(np.arange(14) % 7)
    family = data.Split(DIGITS, 3)
    assert family.bind(dataset).max_tasks == family.bind(dataset).max_tasks == 2
    assert capsys.readouterr().err == "warning: Split: 7 classes make 2 tasks of 3; in no task: class 6\n"
    replace(family, num_tasks=1).bind(dataset)  # fewer tasks than possible are requested
    assert capsys.readouterr().err == ""
    data.Split(DIGITS, 3, order="drawn").bind(dataset)
    assert "in no task: the last 1 in the order that the seed draws" in capsys.readouterr().err
    data.Split(DIGITS, 4, order="fixed").bind(dataset)
    unused = sorted(np.random.RandomState(1).permutation(7)[-3:])
    assert f"in no task: classes {', '.join(map(str, unused))}" in capsys.readouterr().err


def test_missing_classes_are_named(capsys):
    gaps = colours([0, 1, 4, 4], [0, 1, 4, 4])
    refused(lambda: data.Split(DIGITS).bind(gaps), "Split: classes 2, 3 without training images", "without gaps")
    data.Split(DIGITS).bind(colours([0, 1, 2, 3], [0, 1, 3]))
    assert capsys.readouterr().err == "warning: Split: class 2 without test images\n"
    data.Permuted(DIGITS).bind(gaps)
    assert "warning: Permuted: classes 2, 3 without training images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0], [1]], ("train labels have shape (2, 1)", "labels[:, 0]")),
        ([0, -1], ("train labels go down to -1",)),
        ([0.0, 1.0], ("train labels are float64",)),
    ],
)
@pytest.mark.parametrize("family", [data.Permuted(DIGITS), data.Rotated(DIGITS), data.Split(DIGITS)])
def test_invalid_labels_are_refused(family, labels, words):
    refused(lambda: family.bind(colours(labels)), type(family).__name__, *words)


def test_families_check_their_fields():
    refused(lambda: data.Permuted(DIGITS, 0), "num_tasks 0: must be from 1")
    refused(lambda: data.Split(DIGITS, 0), "Split: classes_per_task 0 must be at least 1")
    for name, value in (("order", "random"), ("augment", "blur")):
        family = data.Split(DIGITS)
        object.__setattr__(family, name, value)  # tests check annotations, which forbid these values
        refused(family.__post_init__, f"{name} '{value}' does not exist")
    refused(lambda: data.Split(DIGITS, augment="resized_crop"), "Digits has its images in memory")
    refused(lambda: data.Split(data.ImageNet()), "ImageNet has its images on disk")
    refused(lambda: data.Permuted(data.ImageNet()), "ImageNet decodes its images task by task")
    refused(lambda: data.Rotated(data.ImageNet()), "ImageNet decodes its images task by task")
    refused(lambda: data.Split(DIGITS, num_tasks=6).bind(DIGITS.load()), "num_tasks 6", "Split has 5 tasks")
    refused(lambda: data.Split(DIGITS, 11).bind(DIGITS.load()), "classes_per_task 11 is more than the 10 classes")


def test_users_can_subclass_families():
    @dataclass(frozen=True)
    class ShiftedPixels(data.PixelMapBenchmark):
        def tasks(self, dataset, seed, numbers):
            height, width, _ = self.image_shape
            pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
            return np.stack([np.roll(pixels, -number, axis=1).reshape(-1) for number in numbers])

    @dataclass(frozen=True)
    class Shifted(data.TaskFamily):
        def bind(self, dataset):
            return ShiftedPixels.of(dataset)

    family = Shifted(DIGITS)
    dataset = family.load("")
    benchmark = family.bind(dataset)
    (task,) = benchmark.tasks(dataset, 0, [2])
    seen, _ = benchmark.samples(dataset.test, jnp.asarray(task), jnp.arange(3), train=False)
    np.testing.assert_allclose(seen, benchmark.normalise(np.roll(dataset.test.images[:3], -2, axis=2)), rtol=1e-6)
    assert family.num_tasks is None and hash(family) == hash(Shifted(DIGITS))
