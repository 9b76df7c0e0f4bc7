"""Range of images, numbering of labels, and plausibility of the mean and standard deviation, in every data set."""

from dataclasses import dataclass

import numpy as np
import pytest

import supsup_jax as ss
from helpers.sources import assert_holds, refused
from supsup_jax import data, errors, networks

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
X[0, 0, 0], X[0, 0, 1] = 0, 255
Y = np.arange(12, dtype=np.int32) % 6
FLOATS = (X / 255).astype(np.float32)


@pytest.fixture(autouse=True)
def forget_warnings():
    errors.warn.cache_clear()


def dataset(images=X, labels=Y, test_labels=None, mean=(0.5,), std=(0.25,)):
    tested = labels if test_labels is None else test_labels
    test = data.Samples(np.resize(images, (len(tested), *images.shape[1:])), np.asarray(tested, np.int32))
    return data.Dataset(data.Samples(images, np.asarray(labels, np.int32)), test, mean, std)


@dataclass(frozen=True)
class UserSource(data.Source):
    """Source of a user, which returns images in the given form."""

    name = "user_source"
    form: str = "uint8"

    def load(self, folder):
        pixels = {"uint8": X, "0 to 1": FLOATS, "0 to 255": FLOATS * np.float32(255), "list": X.tolist()}[self.form]
        return data.Dataset(data.Samples(pixels, Y), data.Samples(pixels, Y), (0.5,), (0.25,))


@pytest.mark.parametrize("form", ["uint8", "0 to 1", "0 to 255", "list"])
def test_user_sources_may_return_floats_to_1_or_to_255(form):
    """Floats to 1 are the convention; `Samples` and version 0.1 hold floats to 255."""
    family = data.Split(UserSource(form))
    loaded = family.load(".")
    np.testing.assert_allclose(loaded.train.images, X, atol=1e-4)
    np.testing.assert_allclose(loaded.test.images, X, atol=1e-4)
    benchmark = family.bind(loaded)
    np.testing.assert_allclose(benchmark.normalise(loaded.train.images), (X / 255 - 0.5) / 0.25, atol=1e-5)


@dataclass(frozen=True)
class Returns(data.Source):
    """Source of a user, which returns the given object."""

    name = "returns"
    given: object = None

    def load(self, folder):
        return self.given


def returned(train=(X, Y), test=(X, Y), mean=(0.5,), std=(0.25,)):
    return data.Permuted(Returns(data.Dataset(train, test, mean, std)))


def test_user_sources_may_return_pairs_and_grey_images():
    family = returned((X[..., 0].tolist(), Y), (X[..., 0], Y), 0.5, [0.25])
    loaded = family.load(".")
    assert_holds(loaded.train, X, Y)
    assert_holds(loaded.test, X, Y)
    assert family.bind(loaded).image_shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (data.Permuted(Returns(((X, Y), (X, Y)))), ("Returns: data set", "has type tuple; give a data.Dataset")),
        (returned((X, Y, Y)), ("Returns: train must be a pair (images, labels)",)),
        (returned((X.reshape(12, 16), Y)), ("Permuted: train images have shape (12, 16); give (samples, height,",)),
        (returned((X, Y), (X[:, :2], Y)), ("images have shape (4, 4, 1), test images (2, 4, 1); give both one shape",)),
        (returned((X.astype(object), Y)), ("Permuted: train images are object; give uint8",)),
        (returned((X, Y), (np.where(X > 9, np.nan, X), Y)), ("test images contain NaN or infinity",)),
        (returned((FLOATS * 255, Y), (FLOATS, Y)), ("Permuted: test images are floats from 0 to 1",)),
        (returned(mean=None), ("Permuted: mean None: has type NoneType; give a sequence",)),
        (returned(mean=(0.5, 0.5)), ("mean is (0.5, 0.5); give a number for each of 1 channels",)),
        (returned(std=(0.0,)), ("Permuted: std is (0.0,); give a number above 0",)),
    ],
)
def test_data_that_a_user_source_must_not_return_are_named(family, words):
    refused(lambda: family.bind(family.load(".")), *words)


@pytest.mark.parametrize(
    "family", [data.Split(UserSource()), data.Permuted(UserSource()), data.Rotated(UserSource(), 4)]
)
def test_a_dataset_with_floats_from_0_to_1_is_refused(family):
    refused(lambda: family.bind(dataset(FLOATS)), "images are floats from 0 to 1", "data.Arrays(train=", "by 255")
    experiment = ss.Experiment("x", family, networks.LeNet(10))
    refused(lambda: experiment.build(dataset(FLOATS)), "images are floats from 0 to 1")
    family.bind(dataset(FLOATS * np.float32(255)))
    family.bind(dataset(np.zeros_like(FLOATS)))


def test_floats_may_exceed_0_to_1_only_by_rounding():
    inputs = data.Inputs.new((4, 4, 1), 6)
    near = FLOATS + np.where(FLOATS > 0.5, 2e-4, -2e-4).astype(np.float32)
    for held in (inputs.images(near), data.Arrays((near, Y), (near, Y)).load().train.images):
        assert held.min() >= 0 and held.max() <= 255
        np.testing.assert_allclose(held, X, atol=0.06)
    np.testing.assert_array_equal(inputs.images(FLOATS), FLOATS * np.float32(255))
    refused(lambda: inputs.images(FLOATS + 0.01), "the images have values from 0.0", "divide them by 255")
    refused(lambda: data.Arrays((FLOATS - 0.5, Y), (FLOATS, Y)), "Arrays: train images have values from -0.5")


def test_images_that_were_divided_twice_cause_a_warning(capsys):
    data.Inputs.new((4, 4, 1), 6).images(FLOATS / 255)
    assert "were they divided by 255 twice?" in capsys.readouterr().err


@pytest.mark.parametrize("images", [np.resize(X, (12, 3, 8, 8)), np.resize(FLOATS, (12, 1, 8, 8))])
def test_images_with_channels_first_cause_a_warning(images, tmp_path, capsys):
    """A tensor's channels are moved; an array's may be meant, as in time series of many channels."""
    np.savez(tmp_path / "data.npz", x_train=images, y_train=Y, x_test=images, y_test=Y)
    for make in (
        lambda: data.Arrays((images, Y), (images, Y)).load(),
        lambda: data.NPZ(tmp_path / "data.npz").load(tmp_path),
        lambda: data.Inputs.new(images.shape[1:], 6),
    ):
        make()
        assert "have 8 channels; if the channels come first" in capsys.readouterr().err
    data.Arrays((X, Y), (X, Y)).load()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "make",
    [
        lambda mean, std: data.Inputs.new((4, 4, 1), 6, mean, std),
        lambda mean, std: data.Arrays((X, Y), (X, Y), mean, std),
        lambda mean, std: data.Permuted(UserSource()).bind(dataset(mean=tuple(mean), std=tuple(std))),
    ],
)
def test_a_mean_and_std_from_0_to_255_cause_a_warning(make, capsys):
    make([33.3], [0.3])
    assert "mean 33.3 is impossible for images scaled to 0 to 1" in (warning := capsys.readouterr().err)
    assert "images from 0 to 255 by 255: 0.1306" in warning and "std" not in warning
    make([0.13], [78.6])
    assert "std 78.6 is impossible" in capsys.readouterr().err
    make([0.0], [1.0])  # no normalisation
    make([0.5], [0.5])  # scales to -1 to 1
    assert capsys.readouterr().err == ""


def test_integral_floats_are_accepted_as_labels():
    assert_holds(data.Arrays((X, Y.astype(np.float64)), (X, Y)).load().train, X, Y)
    refused(lambda: data.Arrays((X, Y + 0.5), (X, Y)), "Arrays: train labels are float64; give non-negative integers")
    refused(lambda: data.Arrays((X, np.eye(6)[Y]), (X, Y)), "labels have shape (12, 6)", "labels.argmax(1)")
    refused(lambda: data.Arrays((X, Y[:, None]), (X, Y)), "labels have shape (12, 1)", "labels[:, 0]")
    refused(lambda: data.Arrays((X, Y), (X, Y - 3)), "Arrays: test labels go down to -3", "renumber")


def test_labels_that_do_not_start_at_0_are_refused():
    late = dataset(labels=Y + 3)
    refused(lambda: data.Split(UserSource()).bind(late), "Split: classes 0, 1, 2 without training images", "renumber")


def test_user_families_name_classes_and_tasks_without_images(capsys):
    @dataclass(frozen=True)
    class InOrder(data.ClassSplit):
        def order(self, seed):
            return np.arange(self.dataset_classes)

    @dataclass(frozen=True)
    class Mine(data.TaskFamily):
        def bind(self, dataset):
            return InOrder.of(dataset, 2)

    experiment = ss.Experiment("x", Mine(UserSource(), num_tasks=3), networks.LeNet(10))
    gap = dataset(labels=np.where(Y < 2, Y + 2, Y))
    benchmark = experiment.build(gap).benchmark
    assert "Mine: classes 0, 1 without training images" in capsys.readouterr().err
    refused(lambda: benchmark.tasks(gap, 0, [0, 1]), "task 0 (classes 0, 1) has no training images")
    untested = dataset(test_labels=[0, 1, 4, 5])
    experiment.build(untested).benchmark.tasks(untested, 0, [0, 1, 2])
    warnings = capsys.readouterr().err
    assert "Mine: classes 2, 3 without test images" in warnings
    assert "task 1 (classes 2, 3) has no test images; its accuracy is NaN" in warnings
    refused(lambda: experiment.build(dataset(labels=Y - 1)), "Mine: train labels go down to -1")
    refused(lambda: experiment.build(dataset(test_labels=[])), "Mine: there are no test images")


def test_test_labels_without_training_images_are_named(capsys):
    data.Permuted(UserSource()).bind(dataset(test_labels=[0, 6, 7]))
    assert "Permuted: classes 6, 7 without training images" in capsys.readouterr().err
    refused(
        lambda: data.Split(UserSource()).bind(dataset(test_labels=[0, 6])), "Split: class 6 without training images"
    )
