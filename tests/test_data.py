import gzip
import hashlib
import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest

from supsup_jax import UserError, data
from supsup_jax.data import mnist


def fake_mnist(folder, monkeypatch, gzipped=True, sizes=(20, 10)):
    """MNIST's four files with fewer images."""
    rng = np.random.default_rng(0)
    shapes = {}
    folder.mkdir(parents=True)
    for part, size in zip(("train", "t10k"), sizes, strict=True):
        for kind, shape in (("images-idx3", (size, 28, 28)), ("labels-idx1", (size,))):
            name = f"{part}-{kind}-ubyte"
            shapes[name] = (shape, "")
            header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
            content = header + rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
            path = folder / (f"{name}.gz" if gzipped else name)
            path.write_bytes(gzip.compress(content) if gzipped else content)
    monkeypatch.setattr(mnist, "_FILES", shapes)


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("place", ["mnist/MNIST/raw", "MNIST/raw", "mnist", "."])
def test_mnist_is_read_from_every_layout(tmp_path, monkeypatch, place, gzipped):
    fake_mnist(tmp_path / "data" / place if place != "." else tmp_path / "data", monkeypatch, gzipped)
    dataset = data.load("mnist", tmp_path / "data")
    assert dataset.train.images.shape == (20, 28, 28, 1)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.test.labels.shape == (10,)
    assert dataset.test.labels.dtype == np.int32


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fake_mnist(tmp_path / "data/mnist/MNIST/raw", monkeypatch)
    assert len(data.load("mnist", "~/data").train.labels) == 20


@pytest.fixture
def raw(tmp_path, monkeypatch):
    folder = tmp_path / "mnist/MNIST/raw"
    fake_mnist(folder, monkeypatch)
    return folder


def assert_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_truncated_file_is_named(raw, tmp_path):
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(path), "cannot be read", "replace it, from https://")


def test_a_short_file_is_named_with_what_was_expected(raw, tmp_path):
    path = raw / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(path), "of another size (27 bytes)", "(28 in all)", "replace it, from https://")


def test_a_file_of_another_kind_is_named(raw, tmp_path):
    shutil.copy(raw / "train-labels-idx1-ubyte.gz", raw / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(raw / "train-images-idx3-ubyte.gz"), "with another header")


def test_a_missing_file_is_named(raw, tmp_path):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(raw / "t10k-labels-idx1-ubyte"), "is missing", "https://")


def test_without_files_and_network_the_answer_comes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_HOST", "host.invalid")
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert time.monotonic() - started < 2
    assert_one_line(error, str(tmp_path), "cannot be reached", "--data")
    assert not list(tmp_path.iterdir())


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="there are mnist, digits"):
        data.load("cifar", ".")


def prepare_with_tfds(folder, file_format):
    """MNIST as TFDS prepares it, with a few images."""
    import io

    import tensorflow_datasets as tfds
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.1")
        name = "mnist"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 4), "test": self._generate_examples(4, 6)}

        def _generate_examples(self, start, stop):
            for index in range(start, stop):
                png = io.BytesIO()
                Image.fromarray(images[index]).save(png, "PNG")
                yield index, {"image": io.BytesIO(png.getvalue()), "label": index}

    Mnist(data_dir=folder, file_format=file_format).download_and_prepare()
    return images


@pytest.mark.filterwarnings("ignore")
def test_mnist_prepared_by_tfds_is_read(tmp_path):
    images = prepare_with_tfds(tmp_path, "array_record")
    dataset = data.load("mnist", tmp_path)
    assert dataset.train.images.shape == (4, 28, 28, 1)
    order = np.argsort(dataset.train.labels)  # TFDS shuffles
    np.testing.assert_array_equal(dataset.train.images[order, ..., 0], images[:4])
    np.testing.assert_array_equal(np.sort(dataset.test.labels), [4, 5])


@pytest.mark.filterwarnings("ignore")
def test_a_tfds_folder_of_another_format_is_named(tmp_path):
    prepare_with_tfds(tmp_path, "array_record")
    (prepared,) = (tmp_path / "mnist").iterdir()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(prepared), "array_record")


def test_real_mnist_has_its_published_sizes(data_folder):
    dataset = data.load("mnist", data_folder)
    assert dataset.train.images.shape == (60000, 28, 28, 1)
    assert dataset.test.images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(dataset.train.labels[:5], [5, 0, 4, 1, 9])
    assert dataset.num_classes == 10


def test_digits_need_no_files():
    dataset = data.load("digits", "/nonexistent")
    assert dataset.image_shape == (8, 8, 1)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 1797
    assert dataset.train.images.max() == 255


def test_permutations_are_the_originals(golden):
    dataset = data.load("digits", "")
    benchmark = data.PermutedMNIST(1, 1, (28, 28, 1), dataset.mean, dataset.std)
    for number, facts in golden("splits.json")["MNISTPerm_seed1"].items():
        (pixels,) = benchmark.tasks(1, [int(number)])
        assert pixels[:20].tolist() == facts["first20"]
        assert hashlib.sha256(pixels.astype("<i8").tobytes()).hexdigest() == facts["sha256_int64_le"]


def test_task_1_of_seed_1_is_task_0_of_seed_2():
    benchmark = data.PermutedMNIST.of(data.load("digits", ""))
    np.testing.assert_array_equal(benchmark.tasks(1, [1]), benchmark.tasks(2, [0]))


def test_samples_are_permuted_and_normalised_and_beyond_the_image_is_black():
    split = data.Split(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1) * 10, np.array([3, 4], np.int32))
    benchmark = data.PermutedMNIST(2, 2, (2, 2, 1), (0.1,), (0.5,))
    images, labels = benchmark.samples(split, jnp.array([3, 0, 4, 1]), jnp.array([1, 0]))
    raw = np.array([[70, 40, 0, 50], [30, 0, 0, 10]])
    np.testing.assert_allclose(images.reshape(2, 4), (raw / 255 - 0.1) / 0.5, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(labels, [4, 3])
