"""Sources for users' data: folders of images, arrays, .npz files, data sets prepared by TFDS, and subclasses."""

import io
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from PIL import Image

from helpers.sources import assert_holds, images, refused, with_field
from supsup_jax import data
from supsup_jax.data import pictures
from supsup_jax.data.files import find_prepared


@pytest.fixture
def flowers(tmp_path):
    """Write a folder of images with one colour per class, in which test images are larger."""
    colours = {"daisy": (250, 250, 0), "rose": (200, 0, 0)}
    for name, colour in colours.items():
        for split, count in (("train", 3), ("val", 1)):
            folder = tmp_path / "flowers" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (40, 20) if split == "val" else (10, 10)
                Image.new("RGB", size, colour).save(folder / f"{number}.png")
    return tmp_path


def test_a_folder_of_images_is_read_and_resized(flowers):
    source = data.ImageFolder("flowers", image_size=8)
    assert source.is_present(flowers)
    dataset = source.load(flowers)
    assert dataset.train.images.shape == (6, 8, 8, 3)
    assert_holds(dataset.train, np.broadcast_to(dataset.train.images[:, :1, :1], (6, 8, 8, 3)), [0, 0, 0, 1, 1, 1])
    assert_holds(dataset.test, np.broadcast_to([[[[250, 250, 0]]], [[[200, 0, 0]]]], (2, 8, 8, 3)), [0, 1])
    np.testing.assert_allclose(dataset.mean, np.array([225, 125, 0]) / 255)
    np.testing.assert_allclose(dataset.std, [25 / 255, 125 / 255, 1])  # a constant channel is not divided by 0
    assert data.ImageFolder(str(flowers / "flowers"), 8).load(flowers / "nowhere").image_shape == (8, 8, 3)
    assert data.ImageFolder("flowers", 8, channels=1).load(flowers).image_shape == (8, 8, 1)


def test_an_invalid_folder_of_images_is_named(flowers):
    refused(lambda: data.ImageFolder("trees").load(flowers), "trees lacks train", "train/<class>")
    refused(lambda: data.ImageFolder(image_size=0), "image_size 0 must be at least 1")
    (flowers / "flowers/train/rose/0.png").write_bytes(b"no picture")
    refused(lambda: data.ImageFolder("flowers").load(flowers), "rose/0.png cannot be read")
    (flowers / "flowers/train/tulip").mkdir()
    refused(lambda: data.ImageFolder("flowers").load(flowers), "val has no folder tulip")


def test_files_of_operating_systems_are_skipped(flowers):
    root = flowers / "flowers"
    for place in (root / "train", root / "val"):
        for name in ("__MACOSX", "@eaDir", "@Recycle", "@tmp", "#snapshot"):
            (place / name).mkdir()
        for name in (".DS_Store", "._0.png", "Thumbs.db"):
            (place / "rose" / name).write_bytes(b"left by a system")
    dataset = data.ImageFolder("flowers", image_size=8).load(flowers)
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 0, 1, 1, 1])


def test_pictures_of_operating_systems_are_not_read(tmp_path):
    inputs = data.Inputs.new((4, 4, 1), 2)
    Image.new("L", (4, 4), 9).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"left by macOS")
    names, pixels = pictures.read(tmp_path, inputs)
    assert names == ["a.png"] and pixels.max() == 9
    (tmp_path / "b.png").write_bytes(b"damaged")
    refused(lambda: pictures.read(tmp_path, inputs), "b.png cannot be read", "replace it")


def test_a_test_folder_without_classes_is_not_used(flowers):
    (flowers / "flowers/test").mkdir()
    Image.new("RGB", (8, 8)).save(flowers / "flowers/test/1.png")
    np.testing.assert_array_equal(data.ImageFolder("flowers", 8).load(flowers).test.labels, [0, 1])
    (flowers / "flowers/val").rename(flowers / "flowers/elsewhere")
    refused(lambda: data.ImageFolder("flowers").load(flowers), "test has its images in one folder", "sort them into")


def some_arrays(dtype=np.uint8):
    train, test = images(4, 5, 6, 1), images(2, 5, 6, 1)
    scale = 1 if dtype == np.uint8 else 255
    return ((train / scale).astype(dtype), np.arange(4)), ((test / scale).astype(dtype), [0, 3])


def test_arrays_are_a_source():
    train, test = some_arrays()
    source = data.Arrays(train=train, test=test)
    assert not source.needs_folder
    dataset = source.load()
    assert_holds(dataset.train, *train)
    assert_holds(dataset.test, *test)
    assert dataset.mean == pytest.approx((train[0].mean() / 255,))
    assert repr(source) == "Arrays(4 training and 2 test images of 5 × 6 × 1)"
    given = data.Arrays(train=train, test=test, mean=[0.5], std=[0.25]).load()
    assert (given.mean, given.std) == ((0.5,), (0.25,))


def test_arrays_accept_floats_and_grey_images():
    train, test = some_arrays(np.float32)
    grey = data.Arrays(train=(train[0][..., 0], train[1]), test=(test[0][..., 0], test[1])).load()
    assert grey.train.images.dtype == np.float32
    np.testing.assert_allclose(grey.train.images, train[0] * 255, rtol=1e-6)
    again = replace(data.Arrays(train, test), mean=(0.5,), std=(1.0,))
    np.testing.assert_array_equal(again.load().train.images, grey.train.images)


def test_arrays_with_the_same_content_are_equal():
    train, test = some_arrays()
    source = data.Arrays(train=train, test=test)
    again = data.Arrays(train=(train[0].copy(), train[1].tolist()), test=test)
    other = data.Arrays(train=(255 - train[0], train[1]), test=test)
    assert source == again and hash(source) == hash(again) and source != other
    traced = []

    def compiled(source, x):
        traced.append(source)
        return x + 1

    function = jax.jit(compiled, static_argnums=0)
    for arrays in (source, again, other):
        function(arrays, 1.0)
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:, None]), ("train labels have shape (4, 1)", "labels[:, 0]")),
        (lambda x, y: (x, y[:2]), ("train labels have shape (2,); give (4,)",)),
        (lambda x, y: (x, y - 1), ("train labels go down to -1", "renumber")),
        (lambda x, y: (x, y / 2), ("train labels are float64",)),
        (lambda x, y: (x, y > 0), ("train labels are bool", "np.unique(labels, return_inverse=True)[1]")),
        (lambda x, y: (x, y.astype(str)), ("train labels are <U", "np.unique(labels, return_inverse=True)[1]")),
        (lambda x, y: (x.astype(int), y), ("images are int64; give uint8",)),
        (lambda x, y: (x.astype(np.float32), y), ("images have values from",)),
        (lambda x, y: (x * np.nan, y), ("images have values from nan",)),
        (lambda x, y: (x[:, 0, 0], y), ("images have shape (4, 1)",)),
        (lambda x, y: (x[:0], y[:0]), ("images have shape (0, 5, 6, 1)",)),
        (
            lambda x, y: (x[:, :4], y),
            ("training images are uint8 of shape (4, 6, 1), test images", "the same shape and type"),
        ),
    ],
)
def test_invalid_arrays_are_refused(change, words):
    train, test = some_arrays()
    refused(lambda: data.Arrays(train=change(*train), test=test), "Arrays", *words)


def test_arrays_must_be_pairs():
    source = data.Arrays(*some_arrays())
    del vars(source)["_samples"]  # cached when they were checked
    refused(lambda: with_field(source, "train", 3), "Arrays: train must be a pair (images, labels)")


def test_statistics_of_arrays_are_checked():
    train, test = some_arrays()
    refused(lambda: data.Arrays(train, test, mean=(0.1,)), "mean requires std and vice versa")
    refused(lambda: data.Arrays(train, test, mean=(0.1, 0.2), std=(1.0,)), "mean has 2 values", "1 channels")
    refused(lambda: data.Arrays(train, test, mean=(0.1,), std=(0.0,)), "std (0.0,) is out of range")


@pytest.mark.parametrize(
    "names",
    [("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_an_npz_file_is_read(tmp_path, names):
    train, test = some_arrays()
    np.savez(tmp_path / "mine.npz", **dict(zip(names, (*train, *test), strict=True)))
    source = data.NPZ("mine.npz")
    assert source.is_present(tmp_path)
    dataset = source.load(tmp_path)
    assert_holds(dataset.train, *train)
    assert_holds(dataset.test, *test)


def test_an_invalid_npz_file_is_named(tmp_path):
    refused(lambda: data.NPZ("mine.npz").load(tmp_path), "mine.npz does not exist")
    (tmp_path / "mine.npz").write_bytes(b"no arrays")
    refused(lambda: data.NPZ("mine.npz").load(tmp_path), "mine.npz cannot be read")
    np.save(tmp_path / "mine.npy", np.zeros(3))
    refused(lambda: data.NPZ("mine.npy").load(tmp_path), "mine.npy cannot be read (it contains a single array)")
    np.savez(tmp_path / "mine.npz", x_train=np.zeros(3))
    refused(lambda: data.NPZ("mine.npz").load(tmp_path), "it contains x_train", "y_train")
    train, test = some_arrays()
    np.savez(tmp_path / "mine.npz", x_train=train[0], y_train=train[1][:, None], x_test=test[0], y_test=test[1])
    refused(lambda: data.NPZ("mine.npz").load(tmp_path), "mine.npz: train labels have shape (4, 1)")
    refused(lambda: data.NPZ(""), "path '' must name a file")


def prepare(folder, shapes, file_format="array_record"):
    """Prepare a data set named flowers with TFDS: one image of each shape, labelled 0, 1, ..., in both splits."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():  # several tests define it

        class Flowers(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.2.3")
            name = "flowers"

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=9),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(), "validation": self._generate_examples()}

            def _generate_examples(self):
                for label, shape in enumerate(shapes):
                    png = io.BytesIO()
                    Image.new("RGB", shape, (10 * label, 0, 255)).save(png, "PNG")
                    yield label, {"image": io.BytesIO(png.getvalue()), "label": label}

    Flowers(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.mark.filterwarnings("ignore")
def test_a_tfds_data_set_is_read_without_tensorflow(tmp_path):
    prepare(tmp_path, [(4, 4)] * 5)
    source = data.TFDS("flowers")
    assert source.is_present(tmp_path) and source.name == "flowers"
    train, test, mean, _ = source.load(tmp_path)
    for split in (train, test):
        assert sorted(split.labels) == [0, 1, 2, 3, 4]
        assert split.images.shape == (5, 4, 4, 3)
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], 10 * split.labels)
    np.testing.assert_allclose(mean, np.array([20, 0, 255]) / 255)


@pytest.mark.filterwarnings("ignore")
def test_an_invalid_tfds_data_set_is_named(tmp_path):
    refused(lambda: data.TFDS("flowers").load(tmp_path), "flowers holds no data set that TFDS prepared", "array_record")
    refused(lambda: data.TFDS("../x"), "name '../x' must be the name of a data set")
    prepare(tmp_path, [(4, 4), (4, 5)])
    refused(lambda: data.TFDS("flowers").load(tmp_path), "its images have several sizes")
    info = tmp_path / "flowers/1.2.3/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    refused(lambda: data.TFDS("flowers").load(tmp_path), "its format is tfrecord", "file_format='array_record'")


@pytest.mark.filterwarnings("ignore")
def test_tfds_images_of_several_sizes_are_resized(tmp_path):
    prepare(tmp_path, [(4, 4), (12, 6), (5, 9)])
    refused(lambda: data.TFDS("flowers").load(tmp_path), "its images have several sizes", "give image_size")
    dataset = data.TFDS("flowers", image_size=6).load(tmp_path)
    assert dataset.image_shape == (6, 6, 3) and sorted(dataset.train.labels) == [0, 1, 2]
    expected = np.broadcast_to(10 * dataset.test.labels[:, None, None], (3, 6, 6))
    np.testing.assert_array_equal(dataset.test.images[..., 0], expected)
    refused(lambda: data.TFDS("flowers", 0), "image_size 0: must be from 1")


def test_users_can_subclass_sources(tmp_path):
    @dataclass(frozen=True)
    class Noise(data.Source):
        name = "noise"
        size: int = 4

        def load(self, folder):
            pixels = np.random.default_rng(0).integers(0, 256, (6, self.size, self.size, 3), dtype=np.uint8)
            return data.Arrays(train=(pixels, np.arange(6) % 2), test=(pixels, np.arange(6) % 2)).load(folder)

    source = Noise(size=5)
    assert source.needs_folder and not source.on_disk and source.is_present(tmp_path)
    assert data.Permuted(source).load(tmp_path).image_shape == (5, 5, 3)
    assert hash(source) == hash(Noise(5))


def test_the_newest_version_prepared_by_tfds_is_read(tmp_path):
    for version in ("9.0.1", "10.0.0", "2.0.0"):
        (tmp_path / "flowers" / version).mkdir(parents=True)
        (tmp_path / "flowers" / version / "dataset_info.json").touch()
    assert find_prepared(tmp_path, "flowers") == tmp_path / "flowers/10.0.0"
