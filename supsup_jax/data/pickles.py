"""Reads the pickles in which image data sets were published, without running what they name."""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass
class Array:
    """Stands for an array or its type: what a pickle makes it with, and the state that it gives it."""

    arguments: Any
    state: Any = None


# All that a pickle may name: what an array is made of.
_OF_ARRAYS = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))


def unpickle(pickled: bytes, most: int) -> Any:
    """What a pickle holds, if that is plain values, lists, dictionaries and arrays; nothing that it names is run.

    Python's own unpickler makes whatever a file names, and reserves memory as large as a few bytes claim.

    Args:
        pickled: the file.
        most: steps of it that are gone at most, each of which makes one value.

    Raises:
        Exception: of many kinds, if it holds anything else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    named = object()

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def name(module: Any, what: Any) -> None:
        if (str(module).replace("numpy._core", "numpy.core"), what) not in _OF_ARRAYS:
            raise ValueError(f"it would run {module}.{what}")
        stack.append(named)

    def set_items(items: list[Any]) -> None:
        if not all(isinstance(key, bytes | str) for key in items[::2]):  # others can take for ever to look up
            raise ValueError("it has a dictionary whose keys are no text")
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    for step, (opcode, value, _) in enumerate(pickletools.genops(pickled)):
        if step > most:
            raise ValueError("it holds much more than images and labels")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(value)
            case "BINSTRING" | "SHORT_BINSTRING":  # of Python 2, where text is bytes
                stack.append(str(value).encode("latin-1"))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode.name])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = [stack.pop(), stack.pop()]
                set_items(items[::-1])
            case "SETITEMS":
                set_items(since_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                name(*str(value).split(" ", 1))
            case "STACK_GLOBAL":
                what, module = stack.pop(), stack.pop()
                name(module, what)
            case "REDUCE":
                arguments = stack.pop()
                if stack.pop() is not named:
                    raise ValueError("it calls what is no array")
                stack.append(Array(arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case other:
                raise ValueError(f"it uses {other}, which images and labels do not need")
    raise ValueError("it has no end")


def pixels(made: Any, shape: tuple[int, ...]) -> UInt8[np.ndarray, "samples pixels"]:
    """The array that a pickle describes, if it is uint8 of a shape."""
    match made:
        case Array(
            state=(
                _,
                (int(), int()) as found,
                Array(arguments=(str() | bytes() as kind, *_)),
                bool(by_columns),
                bytes(content),
            )
        ):
            if found != shape or kind not in ("u1", b"u1"):
                raise ValueError(f"its data are of shape {found} and type {kind!r}, not {shape} and 'u1'")
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")
    raise ValueError(f"its data are no array of {' × '.join(map(str, shape))} bytes")
