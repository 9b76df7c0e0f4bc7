"""Converts arguments of the types that users have: numbers and arrays of NumPy, JAX and PyTorch, lists, paths.

`Part` converts the fields of parts according to their annotations; functions call `convert` for their arguments. If a
value cannot be converted, the error names the argument and the value's type. PyTorch is not imported: tensors are
recognised by their methods.
"""

import collections.abc
import dataclasses
import functools
import inspect
import operator
import os
import types
from abc import ABCMeta
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from supsup_jax.errors import ArgumentError, UserError, reason

_EXAMPLES = {
    "experiment": "Experiment(name=..., tasks=..., network=...)",
    "method": "methods.SupSup()",
    "network": "networks.LeNet(features=10), or networks.Network(module, input_shape=...)",
    "optimizer": "optimizers.RMSprop()",
    "scenario": "scenarios.GG()",
    "search": "OneShot()",
    "source": "data.MNIST()",
    "tasks": "data.Permuted(data.MNIST())",
    "training": "Training(steps=1000)",
}
"""Python code for an example of each kind of part."""

_LONGEST = 60


class _PartType(ABCMeta):
    """Converts the arguments of a class that are dataclass fields before it creates an instance."""

    if not TYPE_CHECKING:  # for type checkers, calls have the signature of the class

        def __call__(cls, *values: Any, **named: Any) -> Any:
            target = cls.__dict__.get("default_class", cls)
            names = _names(target)
            values = [*map(functools.partial(_field, target), names, values), *values[len(names) :]]
            named = {name: _field(target, name, value) for name, value in named.items()}
            return super(_PartType, target).__call__(*values, **named)

        @property
        def __signature__(cls) -> inspect.Signature:
            signature = inspect.signature(cls.__dict__.get("default_class", cls).__init__)
            return signature.replace(parameters=list(signature.parameters.values())[1:])


class Part(metaclass=_PartType):
    """Base class of the parts of experiments: dataclasses whose fields are converted before they are checked.

    A class attribute `default_class` names the class to instantiate when the class itself is called.

    Raises:
        ArgumentError: if a value does not have the type of its field's annotation and cannot be converted to it.
    """


@functools.cache
def _names(component: Any) -> list[str]:
    """Return the names of the arguments of a class, in order."""
    return list(inspect.signature(component).parameters)


def _field(component: Any, name: str, value: Any) -> Any:
    """Return the value of a dataclass field converted to its annotation; defaults are not converted."""
    field = getattr(component, "__dataclass_fields__", {}).get(name)
    if field is None or name not in (hints := _hints(component)) or value is field.default:
        return value
    return convert(name, value, hints[name])


@functools.cache
def _hints(component: Any) -> dict[str, Any]:
    """Return the annotations of a class, without names that only a type checker can resolve."""
    try:
        return get_type_hints(component)
    except Exception:  # of any type: annotations are evaluated
        hints = {name: hint for base in component.__bases__[::-1] for name, hint in _hints(base).items()}
        annotations = inspect.get_annotations(component).items()
        return hints | {name: hint for name, hint in annotations if not isinstance(hint, str)}


def convert(argument: str, value: Any, expected: Any) -> Any:
    """Convert a value to the type of an annotation.

    Args:
        argument: the name of the argument, for messages.
        value: the value.
        expected: the annotation. Annotations that this function does not know, such as `Any`, accept every value.

    Raises:
        ArgumentError: if the value cannot be converted.
    """
    if expected is Any:  # a class without instances
        return value
    origin, members = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return _convert_to_any_of(argument, value, members)
    if origin is Literal:
        return _choice(argument, value, members)
    if origin in (tuple, collections.abc.Sequence) and (origin is not tuple or Ellipsis in members):
        return tuple(convert(argument, item, members[0]) for item in _items(argument, value))
    if origin is collections.abc.Callable:
        return _function(argument, value)
    convert_scalar: Any = _SCALARS.get(expected) if isinstance(expected, type) else None
    if convert_scalar is not None:
        return convert_scalar(argument, value)
    return _instance(argument, value, expected) if isinstance(expected, type) and origin is None else value


def integer(argument: str, value: Any) -> int:
    """Convert an integer of any library, or a whole float, to `int`.

    Raises:
        ArgumentError: if the value is not a whole number.
    """
    if type(value) is int:
        return value
    plain = _plain(value)
    if not isinstance(plain, bool | np.bool_ | str | bytes):
        try:
            return operator.index(plain)
        except TypeError:
            if isinstance(plain, float | np.floating) and float(plain).is_integer():
                return int(plain)
    raise wrong_type(argument, value, "an integer")


def number(argument: str, value: Any) -> float:
    """Convert a real number of any library to `float`.

    Raises:
        ArgumentError: if the value is not a real number.
    """
    if type(value) is float:
        return value
    plain = _plain(value)
    if not isinstance(plain, bool | np.bool_ | str | bytes | complex | np.complexfloating) and np.ndim(plain) == 0:
        try:
            return float(plain)
        except (TypeError, ValueError, OverflowError):
            pass
    raise wrong_type(argument, value, "a number")


def text(argument: str, value: Any) -> str:
    """Convert a string or a path to `str`.

    Raises:
        ArgumentError: if the value is neither.
    """
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str):
        return path
    raise wrong_type(argument, value, "a string")


def path(argument: str, value: Any) -> Path:
    """Convert a string or a path to `Path`, with `~` expanded.

    Raises:
        ArgumentError: if the value is neither.
    """
    return Path(os.path.expanduser(text(argument, value)))


def array(argument: str, value: Any) -> np.ndarray:
    """Convert an array of NumPy, JAX or PyTorch on any device, or lists of them, to a NumPy array.

    Types that NumPy lacks become float32, such as bfloat16, or int32, such as int4.

    Raises:
        UserError: if the value is not an array.
    """
    if isinstance(value, str | bytes | type | dict | set) or value is None:
        raise wrong_type(argument, value, "an array")
    try:
        converted = np.asarray(_in_numpy(value))
    except Exception as error:  # of many types, from many libraries
        if isinstance(value, list | tuple) and isinstance(error, ValueError):
            raise UserError(f"the {argument} have different shapes; give one array") from None
        raise wrong_type(argument, value, f"an array ({reason(error)})") from None
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise UserError(f"the {argument} have masked values; fill them first")
    if converted.dtype.kind == "V" and converted.dtype.names is None:
        converted = converted.astype(np.int32 if "int" in converted.dtype.name else np.float32)
    return converted


def is_tensor(value: Any) -> bool:
    """Return whether a value is a PyTorch tensor."""
    return all(hasattr(value, name) for name in ("detach", "cpu", "numpy", "is_floating_point"))


def wrong_type(argument: str, value: Any, expected: str) -> ArgumentError:
    """Return the error for a value of a type that cannot be converted.

    Args:
        argument: the name of the argument.
        value: the value.
        expected: what to give instead.
    """
    return ArgumentError(argument, shown(value), f"has type {_type_name(value)}; give {expected}")


def shown(value: Any) -> str:
    """Return a value as text for a message, shortened; an array as its shape, a class as its name."""
    if isinstance(value, type):
        return value.__name__
    if shape := getattr(value, "shape", None):
        return f"of shape {tuple(shape)}"
    words = " ".join(repr(value).split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def _type_name(value: Any) -> str:
    module, name = type(value).__module__, type(value).__qualname__
    return name if module == "builtins" else f"{module.partition('.')[0]}.{name}"


def _plain(value: Any) -> Any:
    """Return a scalar array or tensor as a Python number, and any other value unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            return value.item()
        except Exception:  # a traced array, for instance
            return value
    return value


def _in_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array, also inside lists, and any other value unchanged."""
    if is_tensor(value):
        tensor = value.detach().cpu()
        if getattr(tensor, "is_sparse", False):
            tensor = tensor.to_dense()
        if tensor.is_floating_point() and str(tensor.dtype) not in ("torch.float16", "torch.float64"):
            tensor = tensor.float()
        return tensor.resolve_conj().resolve_neg().numpy() if hasattr(tensor, "resolve_neg") else tensor.numpy()
    if isinstance(value, list | tuple) and any(is_tensor(item) or isinstance(item, list | tuple) for item in value):
        return [_in_numpy(item) for item in value]
    return value


def _truth(argument: str, value: Any) -> bool:
    plain = _plain(value)
    if isinstance(plain, bool | np.bool_) or (isinstance(plain, int | np.integer) and plain in (0, 1)):
        return bool(plain)
    raise wrong_type(argument, value, "True or False")


_SCALARS: dict[type, Callable[[str, Any], Any]] = {
    bool: _truth,
    float: number,
    int: integer,
    str: text,
    np.ndarray: array,
    tuple: lambda argument, value: tuple(_items(argument, value)),
    Path: lambda argument, value: value if isinstance(value, Path) else Path(text(argument, value)),
}


def _convert_to_any_of(argument: str, value: Any, members: Sequence[Any]) -> Any:
    """Convert a value to one of several annotations: one that it fits exactly, or the first that can convert it."""
    if (value is None and type(None) in members) or type(value) in members:
        return value
    errors = []
    for member in members:
        if member is not type(None):
            try:
                return convert(argument, value, member)
            except ArgumentError as error:
                errors.append(error)
    raise errors[0]


def _choice(argument: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return the choice that a value equals. The part itself rejects other values and names the choices."""
    plain = str(value) if isinstance(value, str) else _plain(value)
    if not isinstance(plain, collections.abc.Hashable) or isinstance(plain, type) or getattr(plain, "shape", None):
        raise wrong_type(argument, value, " or ".join(map(str, choices)))
    return next((choice for choice in choices if choice is not None and plain == choice), value)


def _items(argument: str, value: Any) -> Iterable[Any]:
    """Return the items of a sequence or an array; a single number becomes a sequence of length 1."""
    if isinstance(value, list | tuple | range):
        return value
    if isinstance(value, str | bytes | dict | set | type) or value is None:
        raise wrong_type(argument, value, "a sequence, such as a tuple")
    if is_tensor(value) or hasattr(value, "__array__"):
        return np.atleast_1d(array(argument, value)).tolist()
    if isinstance(value, Iterable):
        return list(value)
    return (value,)


def _function(argument: str, value: Any) -> Any:
    if not callable(value) or (isinstance(value, type) and dataclasses.is_dataclass(value)):
        example = f", such as {value.__name__}(...)" if isinstance(value, type) else ""
        raise wrong_type(argument, value, f"a function{example}")
    return value


def _instance(argument: str, value: Any, expected: type) -> Any:
    """Check that a value is an instance of a class, and return it.

    If the class is a part, other classes of the same kind pass. If not, all objects pass except numbers, strings and
    containers.
    """
    if expected is type or getattr(expected, "_is_protocol", False) or isinstance(value, expected):
        return value
    kind = expected.__dict__.get("kind") or getattr(expected, "kind", None)
    if isinstance(value, type):
        instance = f"{value.__name__}(...)"
        raise ArgumentError(argument, value.__name__, f"is a class; give an instance of it, such as {instance}")
    if isinstance(kind, str) and getattr(value, "kind", None) != kind:
        raise wrong_type(argument, value, f"an instance of {expected.__name__}, such as {_EXAMPLES.get(kind, kind)}")
    is_plain = isinstance(value, bool | int | float | complex | str | bytes | list | tuple | dict | set)
    if is_plain and expected.__module__ != "builtins":
        raise wrong_type(argument, value, f"an instance of {expected.__name__}")
    return value
