import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from helpers.tiers import thorough_but
from supsup_jax import data
from supsup_jax.data import augmentation
from supsup_jax.data.augmentation import Frames

RNG = np.random.default_rng(0)
PADDING = 4

# Compiled, because running operation by operation is slower.
random_resized_crop = jax.jit(augmentation.random_resized_crop, static_argnums=2)
crop_and_flip = jax.jit(augmentation.crop_and_flip, static_argnums=2)
centre_crop = jax.jit(augmentation.centre_crop, static_argnums=1)
box_of = jax.jit(augmentation._box, static_argnums=0)
IMAGE = RNG.integers(1, 256, (32, 32, 3), dtype=np.uint8)


def keys_of(seed, batch):
    return jax.random.split(jax.random.key(seed), batch)


def crops(image):
    """Return all possible crops of an image: offsets and direction by bytes."""
    padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    possible = {}
    for down in range(2 * PADDING + 1):
        for right in range(2 * PADDING + 1):
            crop = padded[down : down + 32, right : right + 32]
            possible[crop.tobytes()] = (down, right, False)
            possible[np.flip(crop, 1).tobytes()] = (down, right, True)
    return possible


def test_crops_cover_every_offset_of_the_padded_image_and_both_flips():
    possible = crops(IMAGE)
    assert len(possible) == 2 * 9 * 9
    images = jnp.tile(jnp.asarray(IMAGE), (2000, 1, 1, 1))
    seen = [possible[crop.tobytes()] for crop in np.asarray(crop_and_flip(images, keys_of(0, 2000), PADDING))]
    assert set(seen) == set(possible.values())
    down, right, flipped = np.array(seen).T
    for offset in (down, right):
        np.testing.assert_allclose(np.bincount(offset) / 2000, 1 / 9, atol=0.025)
    assert abs(flipped.mean() - 0.5) < 0.04
    assert np.abs(np.corrcoef(np.array(seen).T) - np.eye(3)).max() < 0.08  # independent of each other


def test_a_crop_depends_only_on_its_key():
    images = jnp.asarray(RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
    keys = keys_of(0, 5)
    together = crop_and_flip(images, keys, PADDING)
    for number in range(5):
        alone = crop_and_flip(images[number:][:1], keys[number:][:1], PADDING)
        np.testing.assert_array_equal(together[number], alone[0])


def test_crops_are_the_same_under_vmap_over_tasks():
    images = jnp.asarray(RNG.integers(0, 256, (3, 5, 32, 32, 3), dtype=np.uint8))
    keys = keys_of(0, 15).reshape(3, 5)
    together = jax.jit(jax.vmap(lambda images, keys: crop_and_flip(images, keys, PADDING)))(images, keys)
    assert together.dtype == np.uint8
    for crop, image, key in zip(together, images, keys, strict=True):
        np.testing.assert_array_equal(crop, crop_and_flip(image, key, PADDING))


def test_images_are_augmented_only_with_keys_before_normalisation():
    """Images without keys are not augmented."""
    images = RNG.integers(1, 256, (20, 32, 32, 3), dtype=np.uint8)
    split = data.Samples(images, np.arange(20, dtype=np.int32) % 10)
    dataset = data.Dataset(split, split, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    benchmark = data.SplitCIFAR100.of(dataset)
    task = jax.tree.map(lambda leaf: leaf[1], benchmark.tasks(dataset, 0, [0, 1]))

    @jax.jit
    def show(keys):
        return benchmark.samples(split, task, jnp.arange(10), True, keys)

    first, labels = show(keys_of(1, 10))
    plain, same_labels = show(None)
    np.testing.assert_array_equal(labels, same_labels)
    task_images = images[task.train]
    np.testing.assert_allclose(plain, (task_images / 255 - benchmark.mean) / benchmark.std, atol=1e-5)
    raw = np.rint((np.asarray(first) * benchmark.std + benchmark.mean) * 255).astype(np.uint8)
    assert len({crops(image)[crop.tobytes()] for image, crop in zip(task_images, raw, strict=True)}) > 5
    np.testing.assert_array_equal(first, show(keys_of(1, 10))[0])
    assert not np.array_equal(first, show(keys_of(2, 10))[0])


def framed(upright, long=384, true_longer=None):
    """Return frames of one upright image at its size; `true_longer` is its longer side before squeezing."""
    height, width, _ = upright.shape
    portrait = height > width
    lying = upright.swapaxes(0, 1) if portrait else upright
    pixels = np.zeros((1, len(lying), long, 3), np.uint8)
    pixels[0, :, : lying.shape[1]] = lying
    aspect = (true_longer or lying.shape[1]) / len(lying)
    parts = np.int32([lying.shape[1]]), np.float32([aspect]), np.array([portrait]), np.array([True])
    return Frames(pixels, *parts)


def joined(*frames):
    return Frames(*map(np.concatenate, zip(*frames, strict=True)))


def smooth(height, width):
    """Return an image with large and small structures, like a photograph."""
    noise = Image.fromarray(RNG.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    large = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(large + RNG.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)


def expected(upright, key, size, length=None):
    """Return the crop of an image that a key determines, computed by Pillow, mirrored if the key says so."""
    height, width, _ = upright.shape
    draws = jax.random.uniform(key, (23,))
    box = box_of(min(height, width), jnp.int32(length or max(height, width)), draws[:-1])
    short = int(box.y), int(box.y + box.height)
    long = int(box.x), int(box.x + box.width)
    (x, x_end), (y, y_end) = (short, long) if height > width else (long, short)
    cut = Image.fromarray(upright).crop((x, y, x_end, y_end)).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(cut).astype(float)
    return pixels[:, ::-1] if draws[-1] < 0.5 else pixels


def assert_close(crops, references, mean, most):
    difference = np.abs(np.asarray(crops) - np.stack(references))
    assert difference.mean() < mean
    assert difference.max() <= most


SHAPES = [(256, 341), (341, 256), (256, 256), (256, 384), (384, 256)]


@pytest.mark.parametrize("size", thorough_but([32], [32, 224]))
def test_random_crops_match_pillow(size):
    images = [smooth(*shape) for shape in SHAPES for _ in range(3)]
    keys = keys_of(0, len(images))
    crops = random_resized_crop(joined(*map(framed, images)), keys, size)
    assert crops.dtype == np.float32
    # Pillow rounds after each axis.
    assert_close(crops, [expected(image, key, size) for image, key in zip(images, keys, strict=True)], 0.5, 1.6)


def test_random_crops_of_photographs_match_pillow(data_folder):
    images = data.load("imagenet", data_folder).test.images
    frames = images.frames(np.arange(0, 1000, 20), 256)
    keys = keys_of(1, 50)
    upright = [
        pixels[:, :width].swapaxes(0, 1) if transposed else pixels[:, :width]
        for pixels, width, transposed in zip(frames.pixels, frames.width, frames.transposed, strict=True)
    ]
    fit = np.flatnonzero(frames.aspect < 1.5)
    assert len(fit) > 30
    crops = np.asarray(random_resized_crop(frames, keys, 224))[fit]
    assert_close(crops, [expected(upright[number], keys[number], 224) for number in fit], 0.5, 1.6)


@pytest.mark.parametrize("portrait", [False, True])
def test_random_crops_of_a_squeezed_image_match_the_original_image(portrait):
    panorama = smooth(256, 768)
    squeezed = np.asarray(Image.fromarray(panorama).resize((384, 256), Image.Resampling.BILINEAR))
    if portrait:
        panorama, squeezed = panorama.swapaxes(0, 1), squeezed.swapaxes(0, 1)
    keys = keys_of(2, 8)
    crops = random_resized_crop(joined(*[framed(squeezed, true_longer=768)] * 8), keys, 32)
    # Squeezing loses columns, and a box starts and ends at one of half as many columns.
    assert_close(crops, [expected(panorama, key, 32) for key in keys], 4, 60)


def torchvision_box(height, width, random):
    """Draw y, x, height and width as torchvision's `RandomResizedCrop` does, with random numbers in the same order."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.integers(height - h + 1), random.integers(width - w + 1), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width"),
    thorough_but(
        [(341, 256), (256, 5120)], [(256, 341), (341, 256), (256, 256), (256, 1280), (1280, 256), (256, 5120)]
    ),
)
def test_crops_have_the_distribution_of_torchvision(height, width):
    count = 4000
    random = np.random.default_rng(1)
    y, x, h, w = np.array([torchvision_box(height, width, random) for _ in range(count)]).T
    draws = jax.vmap(lambda key: jax.random.uniform(key, (22,)))(keys_of(3, count))
    short, long = sorted((height, width))
    box = jax.vmap(lambda draws: box_of(short, jnp.int32(long), draws))(draws)
    upright_box = (box.x, box.y, box.width, box.height) if height > width else box  # portraits are transposed
    our_y, our_x, our_h, our_w = map(np.asarray, upright_box)
    assert (our_y >= 0).all() and (our_x >= 0).all()
    assert (our_y + our_h <= height).all() and (our_x + our_w <= width).all()
    for ours, reference in (
        (our_h * our_w, h * w),
        (our_w / our_h, w / h),
        (our_y, y),
        (our_x, x),
        (our_y + our_h / 2, y + h / 2),
    ):
        assert ks_2samp(ours, reference).statistic < 0.045  # holds in 999 of 1,000 cases for 4,000 samples each
    fallbacks = [
        ((sides == (short, round(short * 4 / 3))).all(1)).mean()
        for sides in (np.sort(np.stack([our_h, our_w], 1), 1), np.sort(np.stack([h, w], 1), 1))
    ]
    assert abs(fallbacks[0] - fallbacks[1]) < 0.04
    assert (fallbacks[1] > 0.1) == (long >= 5 * short)


def test_half_of_the_crops_are_mirrored_horizontally():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    for image in (np.pad(ramp, ((0, 64), (0, 0), (0, 0)), "edge"), ramp):
        crops = np.asarray(random_resized_crop(joined(*[framed(image)] * 400), keys_of(4, 400), 8))
        rising = np.diff(crops[..., 0], axis=2)
        assert ((rising > 0).all((1, 2)) | (rising < 0).all((1, 2))).all()
        assert abs((rising > 0).all((1, 2)).mean() - 0.5) < 0.1


def test_a_resized_crop_depends_only_on_its_key():
    frames = joined(*(framed(smooth(*shape)) for shape in SHAPES))
    keys = keys_of(5, len(SHAPES))
    together = random_resized_crop(frames, keys, 16)
    for number in range(len(SHAPES)):
        alone = jax.tree.map(lambda leaf, number=number: leaf[number : number + 1], frames)
        np.testing.assert_allclose(
            together[number], random_resized_crop(alone, keys[number : number + 1], 16)[0], atol=1e-3
        )
    assert not np.allclose(together, random_resized_crop(frames, keys_of(6, len(SHAPES)), 16), atol=1)


def pillow_centre(upright, size):
    """Return the result of torchvision's `Resize` and `CenterCrop`."""
    height, width, _ = upright.shape
    resized = round(size * 256 / 224)
    shape = [int(resized * side / min(height, width)) for side in (width, height)]
    x, y = (round((side - size) / 2) for side in shape)
    image = Image.fromarray(upright).resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((x, y, x + size, y + size))).astype(float)


def test_centre_crops_without_resizing_are_exact():
    images = [smooth(*shape) for shape in [*SHAPES, (256, 343), (343, 256), (257, 256)]]
    centres = centre_crop(joined(*map(framed, images)), 224)
    np.testing.assert_array_equal(centres, [pillow_centre(image, 224) for image in images])


@pytest.mark.parametrize("size", thorough_but([64], [32, 64, 280]))
def test_centre_crops_with_resizing_match_pillow(size):
    images = [smooth(*shape) for shape in SHAPES]
    assert_close(centre_crop(joined(*map(framed, images)), size), [pillow_centre(i, size) for i in images], 0.5, 1.6)


def test_the_centre_of_a_squeezed_image_matches_the_original_image():
    panorama = smooth(256, 768)
    squeezed = np.asarray(Image.fromarray(panorama).resize((384, 256), Image.Resampling.BILINEAR))
    assert_close(centre_crop(framed(squeezed, true_longer=768), 56), [pillow_centre(panorama, 56)], 2, 12)


def test_unreadable_images_give_black_crops():
    black = Frames(
        np.zeros((2, 64, 96, 3), np.uint8),
        *(np.array([value] * 2) for value in (np.int32(64), np.float32(1), False, False)),
    )
    np.testing.assert_array_equal(random_resized_crop(black, keys_of(7, 2), 32), np.zeros((2, 32, 32, 3)))
    np.testing.assert_array_equal(centre_crop(black, 32), np.zeros((2, 32, 32, 3)))
