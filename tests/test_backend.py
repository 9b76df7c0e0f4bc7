import jax
import numpy as np

from supsup_jax.backend import num_bytes


def test_bytes_are_those_of_the_arrays():
    assert num_bytes({"a": np.zeros((3, 2), np.float32), "b": jax.ShapeDtypeStruct((5,), np.uint8)}) == 29
