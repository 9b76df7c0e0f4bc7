"""Small ImageNets of generated photographs."""

import io

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
CLASSES = ("n01440764", "n02105855", "n12998815")


def photograph(height, width):
    """Return an image with structures of several sizes."""
    noise = Image.fromarray(RNG.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC)


def save(image, path, kind="JPEG", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        image.save(file, kind, **settings)


def write(folder, names=("a.JPEG", "b.JPEG"), classes=CLASSES):
    """Write ImageNet in torchvision's layout, with a few images of different sizes for each class."""
    number = 0  # limits sizes: no image is longer than a frame
    for split in ("train", "val"):
        for wnid in classes:
            for name in names:
                number = number % 6 + 1
                shape = (96, 96 + 8 * number) if number % 2 else (96 + 8 * number, 96)
                kind = "PNG" if name.lower().endswith("png") else "JPEG"
                save(photograph(*shape), folder / split / wnid / name, kind)
    return folder


def pillow_pixels(path, cache_size):
    """Return the pixels of a file, decoded and resized by Pillow, upright."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    shorter = min(image.size)
    return np.asarray(image.resize([cache_size * side // shorter for side in image.size], Image.Resampling.BILINEAR))


def upright(frames, place):
    pixels = frames.pixels[place, :, : frames.width[place]]
    return pixels.swapaxes(0, 1) if frames.transposed[place] else pixels


def encoded(kind="JPEG", size=(96, 120)):
    file = io.BytesIO()
    photograph(*size).save(file, kind)
    return file.getvalue()
