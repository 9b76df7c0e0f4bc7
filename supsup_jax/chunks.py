"""Batches that are worked on a chunk at a time, so that what is laid out for one of them fits."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def scan(function: Callable[..., tuple[Any, Array]], carry: Any, chunks: int, *batches: Array) -> tuple[Any, Array]:
    """What is carried through nearly equal chunks of batches, and what comes of each, put together.

    Args:
        function: gives what is carried on, and a row for each row of a chunk; it takes what is carried, and a chunk of
            each batch. Where the batches do not divide, zeros follow them: these must leave what is carried as it is,
            and rows that come of them are left out.
        carry: what is carried first.
        chunks: how many chunks to make at least, unless there are fewer rows.
        batches: arrays with as many rows each.
    """
    if chunks <= 1:
        return function(carry, *batches)
    rows = len(batches[0])
    size = math.ceil(rows / chunks)
    chunks = math.ceil(rows / size)
    added = chunks * size - rows
    padded = [jnp.pad(batch, ((0, added), *(batch.ndim - 1) * ((0, 0),))) for batch in batches]
    parts = [batch.reshape(chunks, size, *batch.shape[1:]) for batch in padded]
    carry, outcome = jax.lax.scan(lambda carry, parts: function(carry, *parts), carry, parts)
    return carry, outcome.reshape(-1, *outcome.shape[2:])[:rows]
