"""Plain data in YAML that anybody may have written."""

from pathlib import Path
from typing import Any

import yaml

from supsup_jax.errors import reason

_MOST_BYTES = 1 << 18

# References let a few lines of YAML stand for any number of values.
_MOST_VALUES = 100_000


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, of numbers, text, lists and mappings alone.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no YAML, or much too long for settings.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("it is too long")
    return parse_yaml(content.decode())


def parse_yaml(text: str) -> Any:
    """What a text in YAML says, of numbers, text, lists and mappings alone.

    Raises:
        ValueError: if it is no YAML.
    """
    try:
        plain = yaml.safe_load(text)
        _check_size(plain)
    except Exception as error:  # of many kinds: a date that there is not, a list in a list in a list
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
