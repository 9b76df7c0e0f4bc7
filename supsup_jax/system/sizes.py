"""Sizes of memory in text."""

import re

from supsup_jax.errors import UserError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(name: str, text: str) -> int:
    """Return a number of bytes, such as 1500000000 for "1.5GB".

    Args:
        name: argument or flag, for the message.
        text: a number and a unit: B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Raises:
        UserError: if the text is not a positive size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|[kmgt]i?)b?", text.strip().lower())
    size = round(float(match[1]) * (_UNITS | _BINARY)[match[2]]) if match else 0
    if size < 1:
        raise UserError(f"{name} {text}: must be a size, such as 500MB, 2GB or 1GiB")
    return size
