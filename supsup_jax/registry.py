"""Registry of parts by name, for flags such as `--method` and for `restore`.

Every part has a *kind*: "tasks", "source", "network", "method", "scenario", "search", "objective", "optimizer" or
"initializer". Classes define it in an inherited attribute `kind`.
"""

import difflib
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, TypeVar, overload

from supsup_jax.errors import UserError

ENTRY_POINTS = "supsup_jax"
"""The group of entry points by which other packages register parts."""

Component = TypeVar("Component", bound=Callable[..., Any])


class UnknownPartError(UserError):
    """A part that cannot be created from its name and settings.

    Args:
        kind: the kind of the part.
        name: the name of the part.
        message: what is wrong, and what to do.
    """

    def __init__(self, kind: str, name: str, message: str):
        super().__init__(message)
        self.kind, self.name = kind, name


_parts: dict[str, dict[str, Any]] = {}
_offered: dict[tuple[str, str], Any] = {}


@overload
def register(component: Component, *, kind: str | None = None, name: str | None = None) -> Component: ...
@overload
def register(component: None = None, *, kind: str | None = None, name: str | None = None) -> Callable[..., Any]: ...
def register(component: Any = None, *, kind: str | None = None, name: str | None = None) -> Any:
    """Register a part under a name; a decorator, with or without arguments.

    Args:
        component: a frozen dataclass of parts, or a function that is a part.
        kind: the kind of the part; by default its attribute `kind`.
        name: the name of the part; by default its attribute `name`, or `__name__`.

    Raises:
        UserError: if it has no kind, or a different part has the name already.
    """
    if component is None:
        return partial(register, kind=kind, name=name)
    kind = kind or getattr(component, "kind", None)
    if not isinstance(kind, str):
        raise UserError(f"{component!r} has no kind; derive it from a class such as methods.Method, or give kind=...")
    name = name or _default_name(component)
    known = _parts.setdefault(kind, {}).get(name)
    # A notebook cell that runs again, or a script that is run and imported, registers a part again.
    if known is not None and (known.__name__ != component.__name__ or _is_built_in(known) != _is_built_in(component)):
        raise UserError(f"there is a {kind} {name} already; choose a different name")
    _parts[kind][name] = component
    return component


def names(kind: str) -> list[str]:
    """Return the names of all parts of a kind."""
    _load_entry_points()
    return list(_parts.get(kind, {}))


def find(kind: str, name: str) -> Any:
    """Return the part with a name: a class of parts, or a function that is a part.

    Raises:
        UnknownPartError: if there is no such part.
    """
    if name not in _parts.get(kind, {}):
        _load_entry_points()
    if name not in _parts.get(kind, {}):
        near = difflib.get_close_matches(str(name), names(kind), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names(kind))}"
        message = f"there is no {kind} {name}; {hint} (ss.register gives a custom part a name)"
        raise UnknownPartError(kind, name, message)
    return _parts[kind][name]


def offer(kind: str, part: Any) -> None:
    """Make a part available by its name in this process, without registering its class.

    Args:
        kind: the kind of the part.
        part: the part, including fields that its stored settings cannot express, such as functions.
    """
    _offered[kind, name_of(kind, part)] = part


def offered(kind: str, name: str) -> Any:
    """Return the part that was passed to `offer` under a name, or `None`."""
    return _offered.get((kind, name))


def is_installed(part: Any) -> bool:
    """Return whether every process can find a part: it belongs to this package, or to one with an entry point."""
    component = type(part) if is_dataclass(part) and not isinstance(part, type) else part
    return getattr(component, "__module__", "").partition(".")[0] in _packages()


def _is_built_in(component: Any) -> bool:
    """Return whether a part belongs to this package, or to JAX."""
    return component.__module__.partition(".")[0] in ("supsup_jax", "jax")


def name_of(kind: str, part: Any) -> str:
    """Return the name of a part, or by default the name of its class."""
    component = type(part) if is_dataclass(part) and not isinstance(part, type) else part
    registered = (name for name, known in _parts.get(kind, {}).items() if known is component)
    return next(registered, _default_name(component))


def _default_name(component: Any) -> str:
    name = getattr(component, "__dict__", {}).get("name")
    return name if isinstance(name, str) else getattr(component, "__name__", type(component).__name__)


@cache
def _packages() -> set[str]:
    """Return the names of this package and of all packages with entry points."""
    return {"supsup_jax"} | {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINTS)}


@cache
def _load_entry_points() -> None:
    """Import the parts of other packages, which register themselves at import."""
    for point in entry_points(group=ENTRY_POINTS):
        component = point.load()
        if getattr(component, "kind", None):
            register(component, name=point.name)
