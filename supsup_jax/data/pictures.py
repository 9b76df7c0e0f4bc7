"""Images that a user has as files: an array, a picture, or a folder of pictures."""

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
    """The images of a file or folder, and what each is called.

    Args:
        path: a NumPy file, a PNG or JPEG file, or a folder with such, which is read in the order of its names.
        inputs: what images are to the network.
        shorter_side: pictures of another size are reduced to it, and cut at their centre to what the network sees; by
            default they have to have that size.

    Raises:
        UserError: if there is nothing to read, or it cannot be read.
    """
    if path.suffix == ".npy":
        try:  # into memory comes what is there, and not what the header claims
            images = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; give a .npy file, a picture, or a folder of pictures") from None
        except Exception as error:  # of many kinds, for a header that is damaged
            raise UserError(
                f"{path} is no NumPy file of numbers ({reason(error)}); write one with numpy.save"
            ) from None
        return [str(number) for number in range(len(images) if images.ndim else 0)], inputs.images(images)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if is_picture(file.name, SUFFIXES))
        if not pictures:
            raise UserError(f"{path} holds no pictures; give a folder with {', '.join(SUFFIXES)} files")
    elif path.suffix.lower() in SUFFIXES:
        pictures = [path]
    else:
        raise UserError(f"{path} is no .npy file, no picture ({', '.join(SUFFIXES)}) and no folder; give one of these")
    return [picture.name for picture in pictures], np.stack(
        [read_picture(one, inputs, shorter_side) for one in pictures]
    )


def read_picture(path: Path, inputs: Inputs, shorter_side: int | None) -> UInt8[np.ndarray, "height width channels"]:
    """A picture as the network sees it. Arguments and errors are those of `read`."""
    height, width, channels = inputs.image_shape
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.mode not in _MODES:  # Pillow would cut off what is more than 8 bits
                raise ValueError(f"its pixels are {opened.mode}, and not of 8 bits")
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError("it has too many pixels")
            image = opened.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # of many kinds, for what is damaged
        raise UserError(f"{path} cannot be read ({reason(error)}); expected a PNG or JPEG file: replace it") from None
    if shorter_side is not None:
        scale = max(shorter_side / min(image.size), height / image.height, width / image.width)
        image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if image.size != (width, height):
        raise UserError(
            f"{path} has {image.width} x {image.height} pixels, and the network sees {width} x {height}; resize it, or "
            "use --resize"
        )
    return np.asarray(image, np.uint8).reshape(inputs.image_shape)
