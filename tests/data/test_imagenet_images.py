"""Decoding of ImageNet's images: frames, unusual formats, unreadable files, streams of batches."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.imagenet import CLASSES, RNG, encoded, photograph, pillow_pixels, save, upright, write
from supsup_jax import data
from supsup_jax.data import images as decoding


def only(tmp_path, *paths):
    """Return the images and paths of given files, as the images of the first class."""
    write(tmp_path / "imagenet", ("z.JPEG",))
    folder = tmp_path / "imagenet/train" / CLASSES[0]
    (folder / "z.JPEG").unlink()
    for path in paths:
        path.rename(folder / path.name)
    return data.load("imagenet", tmp_path).train.images, [folder / path.name for path in paths]


@pytest.mark.parametrize(
    ("height", "width", "in_frame"),
    [(100, 100, 64), (100, 133, 85), (100, 150, 96), (100, 151, 96), (100, 400, 96), (64, 65, 65), (30, 40, 85)],
)
@pytest.mark.parametrize("portrait", [False, True])
def test_frames_hold_images_on_their_longer_side(tmp_path, height, width, in_frame, portrait):
    size = (height, width) if portrait else (width, height)
    save(photograph(400, 400).resize(size), tmp_path / "image.JPEG")
    images, (path,) = only(tmp_path, tmp_path / "image.JPEG")
    frames = images.frames(np.arange(1), 64)
    assert frames.pixels.shape == (1, 64, 96, 3)
    assert frames.pixels.dtype == np.uint8
    assert frames.width == [in_frame]
    np.testing.assert_allclose(frames.aspect, [width / height], rtol=1e-6)
    assert frames.transposed == [portrait and width > height]
    assert frames.readable.all()
    assert not frames.pixels[0, :, in_frame:].any()
    with Image.open(path) as image:
        short_and_long = (64, in_frame) if portrait else (in_frame, 64)
        expected = np.asarray(image.resize(short_and_long, Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(upright(frames, 0) if width > height else frames.pixels[0, :, :64], expected)


def rgba(image):
    image = image.convert("RGBA")
    image.putalpha(100)
    return image


ODD = {
    "cmyk": (lambda image: image.convert("CMYK"), "JPEG"),
    "greyscale": (lambda image: image.convert("L"), "JPEG"),
    "progressive": (lambda image: image, "JPEG"),
    "png": (lambda image: image, "PNG"),
    "palette png": (lambda image: image.convert("P"), "PNG"),
    "transparent png": (rgba, "PNG"),
    "palette png with transparency": (lambda image: rgba(image).quantize(), "PNG"),
    "greyscale png": (lambda image: image.convert("L"), "PNG"),
    "bilevel png": (lambda image: image.convert("1"), "PNG"),
    "gif": (lambda image: image.convert("P"), "GIF"),
    "bmp": (lambda image: image, "BMP"),
}


@pytest.mark.parametrize("odd", ODD)
def test_unusual_image_formats_are_converted(tmp_path, capfd, odd):
    convert, kind = ODD[odd]
    settings = {"progressive": True} if odd == "progressive" else {}
    save(convert(photograph(96, 120)), tmp_path / "odd.JPEG", kind, **settings)
    images, (path,) = only(tmp_path, tmp_path / "odd.JPEG")
    frames = images.frames(np.arange(1), 64)
    assert frames.readable.all()
    assert frames.pixels.any()
    decoding._quieten_pillow()
    np.testing.assert_array_equal(upright(frames, 0), pillow_pixels(path, 64))
    assert capfd.readouterr().err == ""


def test_a_jpeg_with_stray_bytes_is_read(tmp_path, capfd):
    file = io.BytesIO()
    photograph(96, 120).save(file, "JPEG")
    (tmp_path / "stray.JPEG").write_bytes(file.getvalue()[:-2] + b"stray" + file.getvalue()[-2:])
    images, (path,) = only(tmp_path, tmp_path / "stray.JPEG")
    frames = images.frames(np.arange(1), 64)
    np.testing.assert_array_equal(upright(frames, 0), pillow_pixels(path, 64))
    assert capfd.readouterr().err == ""


def bomb(width, height):
    """Return a JPEG whose header claims a large image."""
    content = encoded()
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[start + 4 :]


DAMAGED = {
    "zero bytes": lambda: b"",
    "a text": lambda: b"404 not found\n" * 100,
    "half a jpeg": lambda: encoded()[: len(encoded()) // 2],
    "a header": lambda: encoded()[:30],
    "half a png": lambda: encoded("PNG")[:5000],
    "a postscript": lambda: encoded("EPS"),
    "a bomb": lambda: bomb(60000, 60000),
    "a smaller bomb": lambda: bomb(12000, 10000),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_unreadable_images_are_black_and_reported(tmp_path, capfd, damaged):
    for name in ("a", "c"):
        (tmp_path / f"{name}.JPEG").write_bytes(encoded())
    (tmp_path / "b.JPEG").write_bytes(DAMAGED[damaged]())
    images, paths = only(tmp_path, *(tmp_path / f"{name}.JPEG" for name in "abc"))
    frames = images.frames(np.arange(3), 64)
    np.testing.assert_array_equal(frames.readable, [True, False, True])
    assert not frames.pixels[1].any()
    assert (frames.width[1], frames.aspect[1], frames.transposed[1]) == (64, 1, False)
    assert images.name(1) == str(paths[1])
    assert capfd.readouterr().err == ""


def test_missing_files_and_folders_named_like_images_are_unreadable(imagenet_folder, tmp_path):
    folder = imagenet_folder / "train" / CLASSES[0]
    (folder / "a.JPEG").unlink()
    (folder / "a.JPEG").symlink_to(tmp_path / "nowhere")
    (folder / "b.JPEG").unlink()
    (folder / "b.JPEG").mkdir()
    frames = data.load("imagenet", imagenet_folder.parent).train.images.frames(np.arange(6), 64)
    np.testing.assert_array_equal(frames.readable, [False, False, True, True, True, True])


def test_large_jpegs_are_decoded_at_a_reduced_size(tmp_path):
    save(photograph(1000, 1200), tmp_path / "large.JPEG", quality=95)
    images, (path,) = only(tmp_path, tmp_path / "large.JPEG")
    assert decoding._decoded(path.read_bytes(), 64).size == (450, 375)
    difference = np.abs(upright(images.frames(np.arange(1), 64), 0).astype(int) - pillow_pixels(path, 64))
    assert difference.mean() < 1
    assert difference.max() <= 10


def test_rows_are_decoded_in_order_with_progress_reports(imagenet_folder):
    images = data.load("imagenet", imagenet_folder.parent).train.images
    every = images.frames(np.arange(6), 48)
    reports = []
    some = images.frames(np.array([4, 1, 4]), 48, lambda *progress: reports.append(progress))
    for actual, part in zip(some, every, strict=True):
        np.testing.assert_array_equal(actual, part[[4, 1, 4]])
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_a_stream_keeps_the_order_of_batches(imagenet_folder):
    (imagenet_folder / "train" / CLASSES[1] / "a.JPEG").write_bytes(b"")
    images = data.load("imagenet", imagenet_folder.parent).train.images
    batches = RNG.integers(0, 6, (7, 4))
    streamed = list(images.stream(batches, 48, workers=0))
    assert len(streamed) == 7
    for frames, rows in zip(streamed, batches, strict=True):
        assert isinstance(frames, data.Frames)
        for actual, expected in zip(frames, images.frames(rows, 48), strict=True):
            np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(frames.readable, rows != 2)


WORKERS = """
import multiprocessing
import os
import signal
import sys
import jax
import numpy as np
from supsup_jax import data

if __name__ == "__main__":
    images = data.load("imagenet", sys.argv[1]).train.images
    batches = np.arange(60).reshape(20, 3) % 6
    whole = images.stream(batches, 48, workers=2)
    for number, (frames, rows) in enumerate(zip(whole, batches)):
        for actual, expected in zip(frames, images.frames(rows, 48)):
            np.testing.assert_array_equal(actual, expected)
        for child in multiprocessing.active_children() if number == 5 else ():  # all workers run
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGTERM)
    whole.close()
    assert not multiprocessing.active_children()
    open_stream = images.stream(batches, 48, workers=2)
    next(open_stream)
    print("done")
"""


@pytest.mark.thorough
def test_workers_ignore_signals_and_exit_silently(imagenet_folder, tmp_path):
    """A stream that is still open is closed when the program exits, without a message."""
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, script, imagenet_folder.parent], capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.stderr == ""
    assert finished.stdout == "done\n"
    assert finished.returncode == 0
