import hashlib
import io
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.data import assert_one_line
from helpers.imagenet import CLASSES, encoded, photograph, pillow_pixels, save, upright, write
from supsup_jax import UserError, data
from supsup_jax.data import Dataset, Samples, SplitImageNet, imagenet


@pytest.mark.parametrize("place", ["imagenet", "."])
def test_torchvisions_layout_is_read_with_labels_in_class_order(tmp_path, place):
    write(tmp_path / place, ("b.JPEG", "a.jpeg", "c.JpG", "d.PNG"))
    dataset = data.load("imagenet", tmp_path)
    assert dataset.image_shape == (224, 224, 3)
    assert dataset.num_classes == 3
    for split, name in ((dataset.train, "train"), (dataset.test, "val")):
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.labels, np.repeat([0, 1, 2], 4))
        names = [split.images.name(row) for row in range(12)]
        expected = [tmp_path / place / name / c / n for c in CLASSES for n in ("a.jpeg", "b.JPEG", "c.JpG", "d.PNG")]
        assert names == list(map(str, expected))
        frames = split.images.frames(np.arange(12), 64)
        for row, path in enumerate(names):
            np.testing.assert_array_equal(upright(frames, row), pillow_pixels(path, 64))


def test_the_image_size_can_be_chosen(imagenet_folder):
    assert data.load("imagenet", imagenet_folder.parent, image_size=64).train.images.shape == (6, 64, 64, 3)
    assert data.load("digits", imagenet_folder.parent, image_size=64).image_shape == (8, 8, 1)  # its size is fixed


def test_hidden_folders_and_files_that_are_not_images_are_skipped(imagenet_folder):
    (imagenet_folder / "train" / CLASSES[0] / "notes.txt").write_text("nothing")
    (imagenet_folder / "train/.cache").mkdir()
    (imagenet_folder / "val/README").write_text("nothing")
    dataset = data.load("imagenet", imagenet_folder.parent)
    assert (len(dataset.train.labels), len(dataset.test.labels), dataset.num_classes) == (6, 6, 3)


def test_links_to_folders_and_files_are_followed(imagenet_folder, tmp_path):
    linked = tmp_path / "linked/imagenet"
    linked.mkdir(parents=True)
    (linked / "val").symlink_to(imagenet_folder / "val")
    for wnid in CLASSES[:2]:
        (linked / "train" / wnid).parent.mkdir(exist_ok=True)
        (linked / "train" / wnid).symlink_to(imagenet_folder / "train" / wnid)
    (linked / "train" / CLASSES[2]).mkdir()
    (linked / "train" / CLASSES[2] / "x.JPEG").symlink_to(imagenet_folder / "train" / CLASSES[2] / "a.JPEG")
    images, labels = data.load("imagenet", linked.parent).train
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2])
    assert images.frames(np.arange(5), 32).readable.all()


def fails(folder, *words):
    with pytest.raises(UserError) as error:
        data.load("imagenet", folder)
    assert_one_line(error, *words)


def test_without_imagenet_the_error_describes_the_layouts(tmp_path):
    fails(
        tmp_path,
        f"{tmp_path / 'imagenet'} lacks train and val; expected train/<class>/*.JPEG and val/<class>/*.JPEG there",
        f"or {tmp_path / 'imagenet2012'}/5.1.0 as TFDS prepares it",
        "get ImageNet from https://",
        "with --data",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["imagenet", "."])
def test_a_missing_folder_is_named(tmp_path, place):
    shutil.rmtree(write(tmp_path / place) / "val")
    fails(tmp_path, f"{tmp_path / place} lacks val; expected")


@pytest.mark.parametrize(("lacking", "other"), [("train", "val"), ("val", "train")])
def test_a_class_of_only_one_split_is_named(imagenet_folder, lacking, other):
    shutil.rmtree(imagenet_folder / lacking / CLASSES[1])
    shutil.rmtree(imagenet_folder / lacking / CLASSES[2])
    fails(
        imagenet_folder.parent,
        f"{imagenet_folder / lacking} has no folder {CLASSES[1]}, but {imagenet_folder / other} has",
        "expected the same classes in both",
        "add it, or name another folder, with links to the classes that both have",
    )


def in_one_folder(folder):
    """Move the validation images into one folder, as published, and return the class of each by name."""
    classes = {}
    for number, path in enumerate(sorted((folder / "val").glob("*/*"), key=lambda path: path.name)):
        name = f"ILSVRC2012_val_{number + 1:08d}"
        classes[name] = path.parent.name
        path.rename(folder / "val" / f"{name}.JPEG")
    for wnid in CLASSES:
        (folder / "val" / wnid).rmdir()
    return classes


def solution(classes):
    """Return the table of classes in Kaggle's form, in which some images show several objects of their class."""
    rows = [f"{name},{wnid} 85 1 499 272 {wnid} 3 4 5 6 " for name, wnid in classes.items()]
    return "\n".join(["ImageId,PredictionString", *rows[::-1]]) + "\n"


def test_validation_images_in_one_folder_require_classes(imagenet_folder):
    in_one_folder(imagenet_folder)
    fails(
        imagenet_folder.parent,
        f"{imagenet_folder / 'val'} has its images in one folder",
        "put Kaggle's LOC_val_solution.csv beside it",
    )
    (imagenet_folder / "LOC_val_solution.csv").write_text("ImageId\nx\n")
    fails(
        imagenet_folder.parent, "LOC_val_solution.csv cannot be read", "expected columns ImageId and PredictionString"
    )
    (imagenet_folder / "LOC_val_solution.csv").write_text(solution({"ILSVRC2012_val_00000002": CLASSES[0]}))
    fails(
        imagenet_folder.parent, "LOC_val_solution.csv has no class for ILSVRC2012_val_00000001.JPEG", "nor for 4 others"
    )


@pytest.mark.parametrize(
    ("above", "class_source"),
    [(".", "table"), ("imagenet-object-localization-challenge", "table"), ("imagenet", "annotations")],
)
def test_kaggles_layout_is_read(tmp_path, above, class_source):
    root = tmp_path / above
    imagenet_folder = write(root / "ILSVRC/Data/CLS-LOC")
    in_folders = data.load("imagenet", tmp_path).test
    files = {Path(in_folders.images.name(row)).read_bytes(): label for row, label in enumerate(in_folders.labels)}
    classes = in_one_folder(imagenet_folder)
    save(photograph(96, 96), imagenet_folder / "test/ILSVRC2012_test_00000001.JPEG")
    (imagenet_folder / "val/._ILSVRC2012_val_00000001.JPEG").write_bytes(b"left by macOS")
    if class_source == "table":
        (root / "LOC_val_solution.csv").write_text(solution(classes))
    else:
        annotations = root / "ILSVRC/Annotations/CLS-LOC/val"
        annotations.mkdir(parents=True)
        for name, wnid in classes.items():
            xml = f"<annotation><folder>val</folder><object>\n<name>{wnid}</name></object></annotation>"
            (annotations / f"{name}.xml").write_text(xml)
    assert data.ImageNet().is_present(tmp_path)
    train, test, *_ = data.load("imagenet", tmp_path)
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 2))
    np.testing.assert_array_equal(test.labels, np.repeat([0, 1, 2], 2))
    assert {Path(test.images.name(row)).read_bytes(): label for row, label in enumerate(test.labels)} == files


def test_classes_of_validation_images_without_training_images_are_named(imagenet_folder, capsys):
    (imagenet_folder / "LOC_val_solution.csv").write_text(solution(in_one_folder(imagenet_folder)))
    shutil.move(imagenet_folder / "train" / CLASSES[1], imagenet_folder.parent / "elsewhere")
    np.testing.assert_array_equal(data.load("imagenet", imagenet_folder.parent).test.labels, [0, 0, 1, 1])
    assert f"val has images of {CLASSES[1]}, which have no training images; skipped" in capsys.readouterr().err
    (imagenet_folder / "train/n99999999").mkdir()
    shutil.copy(imagenet_folder / "train" / CLASSES[0] / "a.JPEG", imagenet_folder / "train/n99999999")
    fails(imagenet_folder.parent, f"{imagenet_folder / 'val'} has no image of n99999999")


def test_folders_of_operating_systems_are_not_classes(imagenet_folder, capsys):
    for name in ("@eaDir", "__MACOSX", "lost+found", ".Trashes", "$RECYCLE.BIN"):
        save(photograph(96, 96), imagenet_folder / "train" / name / "a.JPEG")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.JPEG"):
        (imagenet_folder / "train" / CLASSES[0] / name).write_bytes(b"left by a system")
        (imagenet_folder / "val" / name).write_bytes(b"left by a system")
    assert len(data.load("imagenet", imagenet_folder.parent).train.labels) == 6
    assert capsys.readouterr().err == ""
    save(photograph(96, 96), imagenet_folder / "train/unlabelled/a.JPEG")
    dataset = data.load("imagenet", imagenet_folder.parent)
    assert (len(dataset.train.labels), dataset.num_classes) == (6, 3)
    assert f"{imagenet_folder / 'train'}: names that are not classes, skipped: unlabelled" in capsys.readouterr().err


def test_a_class_without_images_is_named(imagenet_folder):
    for path in (imagenet_folder / "val" / CLASSES[1]).iterdir():
        path.rename(path.with_suffix(".webm"))
    fails(
        imagenet_folder.parent,
        f"{imagenet_folder / 'val' / CLASSES[1]} has no images; expected files that end in .jpeg, .jpg, .png",
    )


def test_empty_folders_are_an_error(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
    fails(tmp_path, "train and", "val are empty; expected a folder with images for each class")


@pytest.mark.parametrize("name", ["simplejpeg", "grain"])
def test_the_error_for_a_missing_package_says_how_to_install_it(imagenet_folder, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    fails(imagenet_folder.parent, "ImageNet requires grain and simplejpeg", name, "pip install 'supsup_jax[imagenet]'")


@pytest.fixture
def prepared(tmp_path):
    """Prepare ImageNet with TFDS, with six training and four validation images whose labels are their numbers."""
    import tensorflow_datasets as tfds

    images = [encoded(size=(96, 100 + 4 * number)) for number in range(10)]

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "imagenet2012"
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 6), "validation": self._generate_examples(6, 10)}

        def _generate_examples(self, start, stop):
            for number in range(start, stop):
                content = b"" if number == 3 else images[number]
                yield number, {"image": io.BytesIO(content), "label": number, "file_name": f"{number}.JPEG"}

    Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return images


@pytest.mark.filterwarnings("ignore")
def test_imagenet_prepared_by_tfds_is_read_and_labels_are_cached(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "imagenet2012/5.1.0"
    for again in (False, True):
        if again:
            monkeypatch.setattr(imagenet, "track", None)  # no second pass
        dataset = data.load("imagenet", tmp_path)
        for split, labels in ((dataset.train, range(6)), (dataset.test, range(6, 10))):
            assert split.labels.dtype == np.int32
            assert sorted(split.labels) == list(labels)
            frames = split.images.frames(np.arange(len(labels)), 64)
            np.testing.assert_array_equal(frames.readable, split.labels != 3)
            for row, label in enumerate(split.labels):
                if label != 3:
                    np.testing.assert_array_equal(upright(frames, row), pillow_pixels(io.BytesIO(prepared[label]), 64))
        assert dataset.test.images.name(2) == f"record 2 of validation in {folder}"
    assert {path.name for path in folder.glob("*.bin")} == {"labels-train.bin", "labels-validation.bin"}
    (batch,) = dataset.train.images.stream(np.arange(6)[None], 64, workers=0)
    assert batch.readable.sum() == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("prepared")
def test_damaged_cached_labels_are_read_again(tmp_path):
    cache = tmp_path / "imagenet2012/5.1.0/labels-train.bin"
    data.load("imagenet", tmp_path)
    whole = cache.read_bytes()
    for damaged in (b"", whole[:-4], whole + b"more", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        cache.write_bytes(damaged)
        assert sorted(data.load("imagenet", tmp_path).train.labels) == list(range(6))
        assert cache.read_bytes() == whole


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("prepared")
def test_a_different_tfds_format_is_an_error(tmp_path):
    info = tmp_path / "imagenet2012/5.1.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    fails(tmp_path, f"{info.parent} cannot be read as imagenet2012 prepared by TFDS", "tfrecord", "'array_record'")
    info.write_text("{")
    fails(tmp_path, f"{info.parent} cannot be read as imagenet2012 prepared by TFDS", str(tmp_path / "imagenet/train"))


def test_real_images_of_all_classes_are_read(data_folder):
    dataset = data.load("imagenet", data_folder)
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.labels, np.arange(1000))
        frames = split.images.frames(np.arange(0, 1000, 5), 64)
        assert frames.readable.all()
        assert 0.1 < frames.transposed.mean() < 0.5  # most photographs are in landscape format
        assert np.abs(frames.pixels[:, :, :64].mean((0, 1, 2)) / 255 - dataset.mean).max() < 0.06


def test_classes_and_labels_of_tasks_match_the_original(golden):
    known = golden("splits.json")
    labels = np.repeat(np.arange(1000, dtype=np.int32), 2)  # two images a class
    split = Samples(np.zeros((2000, 1, 1, 3), np.uint8), labels)
    dataset = Dataset(split, split, (0.0,) * 3, (1.0,) * 3)
    benchmark = SplitImageNet.of(dataset)
    order = benchmark.order(seed=7)
    assert order[:50].tolist() == known["SplitImageNet_seed1"]["first50"]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == known["SplitImageNet_seed1"]["sha256_int64_le"]
    for number, samples in known["SplitImageNet_tasks"].items():
        task = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, 7, [int(number)]))
        ours = {(f"c{row // 2}_{row % 2}", int(task.labels[labels[row]])) for row in task.train[: task.train_size]}
        assert ours == {(path, label) for path, label in samples}
