"""Reads plain data from YAML of any author."""

from pathlib import Path
from typing import Any

import yaml

from supsup_jax.errors import reason

_MOST_BYTES = 1 << 18

# Anchors let a few lines of YAML expand to any number of values.
_MOST_VALUES = 100_000


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file that contains only numbers, strings, lists and mappings.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not valid YAML, or far too long for settings.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("it is too long")
    return parse_yaml(content.decode())


def parse_yaml(text: str) -> Any:
    """Return the content of YAML text that contains only numbers, strings, lists and mappings.

    Raises:
        ValueError: if it is not valid YAML.
    """
    try:
        plain = yaml.safe_load(text)
        _check_size(plain)
    except Exception as error:  # of many types: an invalid date, or nesting that is too deep
        raise ValueError(reason(error)) from None
    return plain


def _check_size(plain: Any) -> None:
    values, count = [plain], 1
    while values:
        value = values.pop()
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("a number is too long")
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | set) else ()
        count += len(inner)
        if count > _MOST_VALUES:
            raise ValueError("it holds too many values")
        values += inner
