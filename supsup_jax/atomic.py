"""Files that are written whole or not at all."""

from pathlib import Path


def write(path: Path, content: str | bytes | bytearray) -> None:
    """Replaces a file, or makes it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    unfinished.replace(path)
