"""Images for tests of sources, and assertions about them."""

import numpy as np
import pytest

from supsup_jax import UserError

RNG = np.random.default_rng(0)


def images(count, *shape):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def refused(call, *words):
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def with_field(source, name, value):
    """Return a source with a field value that its annotations forbid; only these tests check the annotations."""
    object.__setattr__(source, name, value)
    source.__post_init__()


def assert_holds(split, expected_images, expected_labels):
    np.testing.assert_array_equal(split.images, expected_images)
    np.testing.assert_array_equal(split.labels, expected_labels)
    assert split.labels.dtype == np.int32
