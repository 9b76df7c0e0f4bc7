"""Reader of images that a user has as files: an array, a picture, or a folder of pictures."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from supsup_jax.data.folders import is_picture
from supsup_jax.data.images import FORMATS, MOST_PIXELS
from supsup_jax.data.inputs import Inputs
from supsup_jax.errors import UserError, reason

SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read(path: Path, inputs: Inputs, shorter_side: int | None = None) -> tuple[list[str], np.ndarray]:
    """Return the images of a file or folder, and the name of each.

    Args:
        path: a NumPy file, a PNG or JPEG file, or a folder of PNG and JPEG files, which are read in the order of their
            names.
        inputs: the network's inputs.
        shorter_side: length to which the pictures' shorter sides are resized before their centres are cropped to the
            network's size, in pixels; by default pictures must have the network's size.

    Raises:
        UserError: if there are no images, or one cannot be read.
    """
    if path.suffix == ".npy":
        try:  # the header may claim more than the file holds
            images = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; give a .npy file, a picture, or a folder of pictures") from None
        except Exception as error:  # various types, for a damaged header
            raise UserError(
                f"{path} is not a NumPy file of numbers ({reason(error)}); write one with numpy.save"
            ) from None
        return [str(number) for number in range(len(images) if images.ndim else 0)], inputs.images(images)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if is_picture(file.name, SUFFIXES))
        if not pictures:
            raise UserError(f"{path} holds no pictures; give a folder with {', '.join(SUFFIXES)} files")
    elif path.suffix.lower() in SUFFIXES:
        pictures = [path]
    else:
        raise UserError(f"{path} is not a .npy file, a picture ({', '.join(SUFFIXES)}) or a folder; give one of these")
    return [picture.name for picture in pictures], np.stack(
        [read_picture(picture, inputs, shorter_side) for picture in pictures]
    )


def fitted(image: Image.Image, size: tuple[int, int], shorter_side: int) -> Image.Image:
    """Return an image resized along its shorter side and cropped at its centre.

    Args:
        image: the image.
        size: height and width of the result, in pixels.
        shorter_side: length to which the shorter side is resized, unless `size` requires more, in pixels.
    """
    height, width = size
    scale = max(shorter_side / min(image.size), height / image.height, width / image.width)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BILINEAR)
    x, y = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((x, y, x + width, y + height))


def read_picture(path: Path, inputs: Inputs, shorter_side: int | None) -> UInt8[np.ndarray, "height width channels"]:
    """Read a picture as the network sees it. Arguments and errors are those of `read`."""
    height, width, channels = inputs.image_shape
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.mode not in _MODES:  # Pillow would clip values above 8 bits
                raise ValueError(f"its mode is {opened.mode}; expected 8 bits per channel")
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError("it has too many pixels")
            image = opened.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # various types, for damaged files
        raise UserError(f"{path} cannot be read ({reason(error)}); expected a PNG or JPEG file: replace it") from None
    if shorter_side is not None:
        image = fitted(image, (height, width), shorter_side)
    if image.size != (width, height):
        raise UserError(
            f"{path} has {image.width} x {image.height} pixels; the network expects {width} x {height}: resize it, or "
            "use --resize"
        )
    return np.asarray(image, np.uint8).reshape(inputs.image_shape)
