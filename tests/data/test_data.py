import gzip
import hashlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.data import assert_one_line, fake_mnist, prepare_with_tfds, serving
from supsup_jax import UserError, data
from supsup_jax.data import files, mnist


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


def test_a_truncated_file_is_named(raw, tmp_path):
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(path), "cannot be read", "replace it, from https://")


def test_a_short_file_is_named_with_its_expected_size(raw, tmp_path):
    path = raw / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(path), "of the wrong size (27 bytes)", "(28 in all)", "replace it, from https://")


def test_a_file_with_the_wrong_header_is_named(raw, tmp_path):
    shutil.copy(raw / "train-labels-idx1-ubyte.gz", raw / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(raw / "train-images-idx3-ubyte.gz"), "with the wrong header")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(mnist, "_URL", "https://host.invalid/")
    monkeypatch.setattr(files.urllib.request, "getproxies", dict)


@pytest.mark.usefixtures("offline")
def test_a_missing_file_is_named(raw, tmp_path):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(raw), "lacks t10k-labels-idx1-ubyte.gz, and", "https://")
    assert "t10k-images" not in str(error.value)


@pytest.mark.usefixtures("offline")
def test_without_network_the_error_is_raised_quickly(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert time.monotonic() - started < 2
    assert_one_line(error, str(tmp_path), "cannot be reached", "--data")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Serve MNIST's files from a folder that tests can change."""
    folder = tmp_path / "published"
    fake_mnist(folder, monkeypatch)
    checked = {
        name: (shape, hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest(), known)
        for name, (shape, _, known) in mnist._FILES.items()
    }
    with serving(folder) as url:
        monkeypatch.setattr(mnist, "_FILES", checked)
        monkeypatch.setattr(mnist, "_URL", url)
        yield folder


def test_only_missing_files_are_downloaded(published, tmp_path):
    folder = tmp_path / "data"
    raw = folder / "mnist/MNIST/raw"
    raw.mkdir(parents=True)
    shutil.copy(published / "train-labels-idx1-ubyte.gz", raw)
    modified = (raw / "train-labels-idx1-ubyte.gz").stat().st_mtime_ns
    dataset = data.load("mnist", folder)
    assert dataset.train.images.shape == (20, 28, 28, 1)
    assert (raw / "train-labels-idx1-ubyte.gz").stat().st_mtime_ns == modified
    shutil.rmtree(published)
    assert len(data.load("mnist", folder).test.labels) == 10


def test_a_download_with_a_wrong_checksum_is_deleted(published, tmp_path):
    (published / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path / "data")
    assert_one_line(error, "cannot be downloaded", "t10k-labels-idx1-ubyte.gz")
    assert not (tmp_path / "data/mnist/MNIST/raw/t10k-labels-idx1-ubyte.gz").exists()


def test_the_error_for_an_unknown_name_lists_the_data_sets():
    with pytest.raises(UserError, match="there are mnist, cifar100, digits"):
        data.load("cifar", ".")


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare MNIST with TFDS, with four training and two test images, and return the images."""
    for name, size in (("train-labels-idx1-ubyte", 4), ("t10k-labels-idx1-ubyte", 2)):
        monkeypatch.setitem(mnist._FILES, name, ((size,), "", ""))
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)
    prepare_with_tfds(tmp_path, "mnist", images, 4)
    return images


@pytest.mark.filterwarnings("ignore")
def test_mnist_prepared_by_tfds_is_read(tmp_path, prepared):
    dataset = data.load("mnist", tmp_path)
    assert dataset.train.images.shape == (4, 28, 28, 1)
    order = np.argsort(dataset.train.labels)  # TFDS shuffles
    np.testing.assert_array_equal(dataset.train.images[order], prepared[:4])
    np.testing.assert_array_equal(np.sort(dataset.test.labels), [4, 5])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("array_record", "parquet", "its format is parquet"),
        ("{", "", "cannot be read as mnist"),
        ('"name": "mnist"', '"name": "emnist"', "it is emnist"),
        ("", "", "not 5"),
    ],
    ids=["wrong format", "damaged", "wrong data set", "too few samples"],
)
def test_a_tfds_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch, before, after, words):
    if not before:
        monkeypatch.setitem(mnist._FILES, "train-labels-idx1-ubyte", ((5,), "", ""))
    (prepared,) = (tmp_path / "mnist").iterdir()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace(before, after))
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, str(prepared), "array_record", words)


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


def test_permutations_match_the_original(golden):
    dataset = data.load("digits", "")
    benchmark = data.PermutedPixels(1, 1, 10, (28, 28, 1), dataset.mean, dataset.std)
    for number, facts in golden("splits.json")["MNISTPerm_seed1"].items():
        (pixels,) = benchmark.tasks(dataset, 1, [int(number)])
        assert pixels[:20].tolist() == facts["first20"]
        assert hashlib.sha256(pixels.astype("<i8").tobytes()).hexdigest() == facts["sha256_int64_le"]


def test_task_1_of_seed_1_is_task_0_of_seed_2():
    dataset = data.load("digits", "")
    benchmark = data.PermutedMNIST.of(dataset)
    np.testing.assert_array_equal(benchmark.tasks(dataset, 1, [1]), benchmark.tasks(dataset, 2, [0]))


def test_samples_are_permuted_normalised_and_padded_with_black():
    split = data.Samples(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1) * 10, np.array([3, 4], np.int32))
    benchmark = data.PermutedPixels(2, 2, 5, (2, 2, 1), (0.1,), (0.5,))
    images, labels = benchmark.samples(split, jnp.array([3, 0, 4, 1]), jnp.array([1, 0]), train=True)
    raw = np.array([[70, 40, 0, 50], [30, 0, 0, 10]])
    np.testing.assert_allclose(images.reshape(2, 4), (raw / 255 - 0.1) / 0.5, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(labels, [4, 3])


def test_rotations_match_the_original_exactly(golden):
    arrays = golden("rotate.npz")
    split = data.Samples(arrays["images"][..., None], arrays["labels"].astype(np.int32))
    dataset = data.Dataset(split, split, (0.1307,), (0.3081,))
    benchmark = data.RotatedMNIST.of(dataset)
    numbers = [0, 3, 7, 9, 18, 27]
    for number, task in zip(numbers, benchmark.tasks(dataset, 1, numbers), strict=True):
        images, labels = benchmark.samples(split, task, jnp.arange(8), train=False)
        degrees = 10 * number
        np.testing.assert_allclose(images[0, ..., 0], arrays[f"norm{degrees}_first"][0], atol=1e-5)
        raw = np.rint((np.asarray(images[..., 0]) * 0.3081 + 0.1307) * 255)
        np.testing.assert_array_equal(raw, arrays[f"rot{degrees}"])
        np.testing.assert_array_equal(labels, arrays["labels"])


def test_rotations_divide_the_circle_evenly(golden):
    digits = data.load_digits()
    benchmark = data.RotatedMNIST.of(digits, num_tasks=4)
    upright, quarter, half = benchmark.tasks(digits, 0, range(3)).reshape(3, 8, 8)
    np.testing.assert_array_equal(upright, np.arange(64).reshape(8, 8))
    np.testing.assert_array_equal(quarter, np.rot90(upright))
    np.testing.assert_array_equal(half, np.rot90(upright, 2))
    assert benchmark.max_tasks == 4
    assert golden("splits.json")["RotatingMNIST_angles_36"] == [10 * task for task in range(36)]


def test_split_tasks_have_two_classes_and_no_sample_twice():
    digits = data.load_digits()
    benchmark = data.SplitMNIST.of(digits)
    tasks = benchmark.tasks(digits, 0, range(5))
    assert benchmark.max_tasks == 5
    for split, train in ((digits.train, True), (digits.test, False)):
        seen = []
        for number in range(5):
            task = jax.tree.map(lambda leaf, number=number: leaf[number], tasks)
            size = int(benchmark.size(task, train))
            rows = jnp.arange(len(split.labels)) % size  # the same number for each task, to compile once
            images, labels = benchmark.samples(split, task, rows, train)
            assert set(np.asarray(labels)) == {2 * number, 2 * number + 1}
            assert images.shape == (len(rows), 8, 8, 1)
            seen += (task.train if train else task.test)[:size].tolist()
        assert sorted(seen) == list(range(len(split.labels)))


def test_the_channels_of_a_pixel_stay_together():
    rng = np.random.default_rng(0)
    split = data.Samples(rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8), np.arange(6, dtype=np.int32))
    dataset = data.Dataset(split, split, (0.0,) * 3, (1.0,) * 3)
    for benchmark in (data.PermutedMNIST.of(dataset), data.RotatedMNIST.of(dataset, num_tasks=4)):
        (pixels,) = benchmark.tasks(dataset, 1, [1])
        images, _ = benchmark.samples(split, pixels, jnp.arange(6), train=True)
        expected = split.images.reshape(6, 16, 3)[:, pixels].reshape(6, 4, 4, 3) / 255
        np.testing.assert_allclose(images, expected, atol=1e-6)


def test_invalid_task_numbers_are_refused():
    digits = data.load_digits()
    with pytest.raises(IndexError, match="there are 5 tasks, and no task 5"):
        data.SplitMNIST.of(digits).tasks(digits, 0, [5])
    with pytest.raises(UserError, match="400 tasks cannot be a whole number of degrees apart"):
        data.RotatedMNIST.of(digits, num_tasks=400)


def test_digits_equal_those_of_scikit_learn_bitwise():
    """Checksums are from `sklearn.datasets.load_digits`, scaled and split."""
    digits = data.load_digits()
    found = [hashlib.sha256(part.tobytes()).hexdigest()[:16] for split in (digits.train, digits.test) for part in split]
    assert found == ["7e4a10b8ab64bd5e", "084af33d95f02043", "ff652b6f02dc1ac6", "1552f6c9117d83dc"]
    assert digits.mean == (0.3058552097821048,)
    assert digits.std == (0.3762791251918089,)
