import contextlib
import hashlib
import pickle
import shutil
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.cifar100 import IMAGES, LABELS, content, pack, python2, python3, shrink, write
from helpers.data import assert_one_line, prepare_with_tfds, serving
from helpers.tiers import thorough_but
from supsup_jax import UserError, data
from supsup_jax.data import cifar100, files


@pytest.fixture(autouse=True)
def fewer_images(request, monkeypatch):
    """Reduce the number of images, except in tests of the real data set."""
    if "data_folder" not in request.fixturenames:
        shrink(monkeypatch)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "cifar100/cifar-100-python"
    write(folder)
    return folder


def assert_read(folder):
    dataset = data.load("cifar100", folder)
    for name in ("train", "test"):
        split = getattr(dataset, name)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images, IMAGES[name])
        np.testing.assert_array_equal(split.labels, LABELS[name])


@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
@pytest.mark.parametrize("dump", [python2, python3])
@pytest.mark.parametrize("place", ["cifar100", "."])
def test_cifar100_is_read_from_every_layout(tmp_path, place, dump, packed):
    write(tmp_path / "data" / place / "cifar-100-python", dump)
    if packed:
        pack(tmp_path / "data" / place)
    assert_read(tmp_path / "data")


def test_any_file_with_a_published_checksum_is_read(raw, tmp_path, monkeypatch):
    pickled = python2(content("train", data=np.asfortranarray(content("train")["data"])))
    (raw / "train").write_bytes(pickled)
    with pytest.raises(UserError):
        data.load("cifar100", tmp_path)
    monkeypatch.setitem(cifar100._KNOWN, "train", (hashlib.md5(pickled).hexdigest(),))
    assert_read(tmp_path)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_copy_with_the_published_images_and_labels_is_read(raw, tmp_path, protocol):
    changed = content("train", coarse_labels=[0] * 8, batch_label="copy")
    (raw / "train").write_bytes(pickle.dumps(changed, protocol))
    assert_read(tmp_path)


def test_files_take_precedence_over_an_archive(raw, tmp_path):
    (raw.parent / "cifar-100-python.tar.gz").write_bytes(b"half a download")
    assert_read(tmp_path)


def test_the_archive_is_read_if_a_file_is_missing(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "whole")
    pack(raw.parent)
    raw.mkdir()
    shutil.copy(tmp_path / "whole/train", raw)
    assert_read(tmp_path)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (python2(content("test"))[:-5000], "cannot be found"),
        (b"", "its bytes are not the published ones, and its images and labels cannot be found"),
        (b"<html>404</html>", "cannot be found"),
        (python2(content("test", fine_labels=None)), "cannot be found"),
        (python2(content("test", fine_labels=[0, 1, 2])), "checksum"),
        (python2(content("test", fine_labels=[0, 1, 2, 100])), "checksum"),
        (python2(content("test", data=None)), "cannot be found"),
        (python2(content("test", data=[[0] * 3072] * 4)), "cannot be found"),
        (python2(content("test", data=np.zeros((4, 1024), np.uint8))), "cannot be found"),
        (python2(content("train")), "cannot be found"),
        (python2(content("test", data=np.zeros((4, 3072), np.float32))), "cannot be found"),
        (python3(content("test", data=np.zeros((4, 3072), np.int8))), "checksum"),
    ],
    ids=[
        "truncated",
        "empty",
        "not a pickle",
        "no labels",
        "too few labels",
        "label out of range",
        "no pixels",
        "pixels in lists",
        "smaller images",
        "the other file",
        "floats",
        "other pixels",
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_a_damaged_file_is_named(raw, tmp_path, damaged, words, packed):
    (raw / "test").write_bytes(damaged)
    if packed:
        pack(raw.parent)
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    path = raw.parent / "cifar-100-python.tar.gz" if packed else raw / "test"
    assert_one_line(
        error,
        f"{path} cannot be read as CIFAR-100",
        words,
        "expected 8 train and 4 test images as published: replace it, from https://",
        "or read other copies with ImageFolder or NPZ",
    )


class Malicious:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("dump", [python2, python3])
@pytest.mark.parametrize(
    "hide",
    [
        lambda evil: {"data": evil},
        lambda evil: {"filenames": [evil]},
        lambda evil: {"data": np.array([evil], object)},
    ],
    ids=["the pixels", "a name", "an entry of an array"],
)
def test_a_malicious_pickle_is_never_unpickled(raw, tmp_path, hide, dump):
    (raw / "train").write_bytes(dump(content("train", **hide(Malicious(tmp_path / "evil")))))
    with contextlib.suppress(UserError):  # valid images are read nevertheless
        data.load("cifar100", tmp_path)
    assert not (tmp_path / "evil").exists()


def link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, str(target)
    return member


def folder(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "it has no cifar-100-python/test"),
        ([folder("cifar-100-python/test")], "cifar-100-python/test is not a regular file"),
        ([link("cifar-100-python/test", "../secret")], "cifar-100-python/test is not a regular file"),
    ],
    ids=["missing", "a folder", "a link to elsewhere"],
)
def test_an_incomplete_archive_is_named(raw, tmp_path, members, words):
    shutil.move(raw / "test", tmp_path / "cifar100/secret")
    pack(raw.parent, *members)
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    assert_one_line(error, str(raw.parent / "cifar-100-python.tar.gz"), words, "replace it, from https://")


@pytest.mark.parametrize("keep", [1000, 20000])
def test_a_truncated_archive_is_named(raw, tmp_path, keep):
    pack(raw.parent)
    path = raw.parent / "cifar-100-python.tar.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    assert_one_line(error, str(path), "Compressed file ended before", "replace it, from https://")


def test_a_file_that_is_not_an_archive_is_named(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    assert_one_line(error, str(tmp_path / "cifar-100-python.tar.gz"), "Not a gzipped file", "replace it, from https://")


def test_reading_an_archive_writes_no_files(raw, tmp_path):
    evil = tarfile.TarInfo("cifar-100-python/../../evil")
    evil.size = 4
    pack(raw.parent, evil)
    before = sorted(tmp_path.rglob("*"))
    assert_read(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_network_the_error_names_the_missing_file(tmp_path, monkeypatch):
    """The error leaves no file or folder."""
    monkeypatch.setattr(cifar100, "_URL", "https://host.invalid/")
    monkeypatch.setattr(files.urllib.request, "getproxies", dict)
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    assert_one_line(
        error,
        f"{tmp_path / 'cifar100'} lacks cifar-100-python.tar.gz, and host.invalid cannot be reached",
        "from https://host.invalid/, or name the folder that has CIFAR-100 with --data",
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Serve the archive."""
    write(tmp_path / "published/cifar-100-python")
    pack(tmp_path / "published")
    archive = tmp_path / "published/cifar-100-python.tar.gz"
    monkeypatch.setattr(cifar100, "_HASH", hashlib.sha256(archive.read_bytes()).hexdigest())
    with serving(archive.parent) as url:
        monkeypatch.setattr(cifar100, "_URL", url)
        yield archive


def test_a_missing_archive_is_downloaded_once(published, tmp_path):
    assert_read(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data/cifar100").iterdir()] == ["cifar-100-python.tar.gz"]
    published.unlink()
    assert_read(tmp_path / "data")


def test_a_download_with_a_wrong_checksum_is_deleted(published, tmp_path):
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path / "data")
    assert_one_line(error, "lacks cifar-100-python.tar.gz, which cannot be downloaded", "--data")
    assert not list((tmp_path / "data/cifar100").iterdir())


@pytest.mark.filterwarnings("ignore")
def test_cifar100_prepared_by_tfds_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "_SIZES", {"train": 4, "test": 2})
    prepare_with_tfds(tmp_path, "cifar100", IMAGES["train"][:6], 4)
    dataset = data.load("cifar100", tmp_path)
    for split, labels in ((dataset.train, [0, 1, 2, 3]), (dataset.test, [4, 5])):
        assert sorted(split.labels) == labels
        np.testing.assert_array_equal(split.images, IMAGES["train"][split.labels])


@pytest.mark.filterwarnings("ignore")
def test_images_of_the_wrong_shape_from_tfds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "_SIZES", {"train": 4, "test": 2})
    prepare_with_tfds(tmp_path, "cifar100", IMAGES["train"][:6, :28, :28], 4)
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    assert_one_line(error, str(tmp_path / "cifar100/3.0.1"), "its images are 28 × 28 × 3", "cifar-100-python.tar.gz")


@pytest.fixture(scope="module")
def real(data_folder):
    return data.load("cifar100", data_folder)


@pytest.mark.usefixtures("data_folder")
def test_real_cifar100_has_balanced_classes_and_published_statistics(real):
    for split, each in ((real.train, 500), (real.test, 100)):
        assert split.images.shape == (100 * each, 32, 32, 3)
        assert split.images.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(split.labels), np.full(100, each))
    # These are the published statistics. The library normalises with the original's values, which are close to
    # CIFAR-10's.
    np.testing.assert_allclose(real.train.images.mean((0, 1, 2)) / 255, [0.5071, 0.4865, 0.4409], atol=5e-5)
    np.testing.assert_allclose(real.train.images[::10].std((0, 1, 2)) / 255, [0.2673, 0.2564, 0.2762], atol=1e-3)
    assert real.mean == (0.491, 0.482, 0.447)
    assert real.std == (0.247, 0.243, 0.262)


@pytest.mark.usefixtures("data_folder")
def test_real_neighbouring_pixels_and_channels_are_similar(real):
    """If rows and columns were confused, neighbours in one direction would differ."""
    images = real.test.images.astype(np.float32)
    for axis in (1, 2, 3):
        assert np.abs(np.diff(images, axis=axis)).mean() < 30  # random pairs differ by about 85


def toy(train=3, test=2, classes=100):
    """Return a data set with balanced classes, in which each image encodes its number and is black otherwise."""

    def split(each):
        labels = np.tile(np.arange(classes, dtype=np.int32), each)
        images = np.zeros((len(labels), 32, 32, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
        return data.Samples(images, labels)

    return data.Dataset(split(train), split(test), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))


def numbers(images, benchmark):
    """Return the number that each image of `toy` encodes."""
    raw = np.rint((np.asarray(images[:, 0, 0]) * benchmark.std + benchmark.mean) * 255).astype(int)
    return raw[:, 0] * 256 + raw[:, 1]


@pytest.mark.parametrize("seed", thorough_but([3], range(5)))
def test_classes_and_labels_of_tasks_match_the_original(golden, seed):
    dataset = toy()
    benchmark = data.SplitCIFAR100.of(dataset)
    order = golden("splits.json")["RandSplitCIFAR100"][str(seed)]
    tasks = benchmark.tasks(dataset, seed, range(20))
    for split, train in ((dataset.train, True), (dataset.test, False)):
        for number in (0, 7, 19):
            task = jax.tree.map(lambda leaf, number=number: leaf[number], tasks)
            images, labels = benchmark.samples(split, task, jnp.arange(benchmark.size(task, train)), train)
            classes = order[5 * number : 5 * number + 5]
            expected = [row for row, label in enumerate(split.labels) if label in classes]  # in the order of the files
            np.testing.assert_array_equal(numbers(images, benchmark), expected)
            np.testing.assert_array_equal(labels, [classes.index(split.labels[row]) for row in expected])


def test_a_task_does_not_depend_on_the_other_tasks():
    dataset = toy()
    benchmark = data.SplitCIFAR100.of(dataset)
    alone = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, 3, [11]))
    among = jax.tree.map(lambda leaf: leaf[2], benchmark.tasks(dataset, 3, [4, 19, 11]))
    jax.tree.map(np.testing.assert_array_equal, alone, among)


@pytest.mark.usefixtures("data_folder")
def test_twenty_tasks_of_five_classes_have_2500_and_500_images(real):
    """Sizes are integers, which are known before images are read."""
    benchmark = data.SplitCIFAR100.of(real)
    assert benchmark.max_tasks == 20
    assert benchmark.num_classes == 5
    task = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(real, 0, [19]))
    assert (benchmark.size(task, True), benchmark.size(task, False)) == (2500, 500)
    assert isinstance(benchmark.size(task, True), int)
    with pytest.raises(IndexError, match="there are 20 tasks, and no task 20"):
        benchmark.tasks(real, 0, [20])


@pytest.mark.parametrize("seed", range(5))
def test_all_samples_of_unequal_classes_are_used_for_every_seed(seed):
    digits = data.load_digits()
    benchmark = data.SplitCIFAR100.of(digits)
    tasks = benchmark.tasks(digits, seed, range(2))
    for split, train in ((digits.train, True), (digits.test, False)):
        rows = []
        for number in range(2):
            task = jax.tree.map(lambda leaf, number=number: leaf[number], tasks)
            rows += (task.train if train else task.test)[: int(benchmark.size(task, train))].tolist()
        assert sorted(rows) == list(range(len(split.labels)))


@pytest.mark.parametrize("kind", [data.PermutedMNIST, data.RotatedMNIST, data.SplitMNIST])
def test_mnist_benchmarks_do_not_augment(kind):
    digits = data.load_digits()
    benchmark = kind.of(digits)
    task = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(digits, 1, [1]))
    with_key = benchmark.samples(digits.train, task, jnp.arange(30), True, jax.random.split(jax.random.key(0), 30))
    jax.tree.map(np.testing.assert_array_equal, with_key, benchmark.samples(digits.train, task, jnp.arange(30), True))
