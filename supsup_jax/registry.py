"""Parts of experiments by name: what a flag such as `--method` chooses, and what `restore` finds.

A part is of a *kind*: "tasks", "source", "network", "method", "scenario", "search", "objective", "optimizer" or
"initializer". Classes say it in an attribute `kind` that they inherit.
"""

import difflib
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, TypeVar, overload

from supsup_jax.errors import UserError

ENTRY_POINTS = "supsup_jax"
"""The group of entry points that other packages register parts in."""

Component = TypeVar("Component", bound=Callable[..., Any])


class UnknownPartError(UserError):
    """A part that cannot be made of its name and settings.

    Args:
        kind: its kind.
        name: its name.
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
    """Gives a part a name; a decorator, with or without arguments.

    Args:
        component: a frozen dataclass of parts, or a function that is a part.
        kind: its kind; by default its attribute `kind`.
        name: its name; by default its attribute `name`, or `__name__`.

    Raises:
        UserError: if it has no kind, or the name is taken by another part.
    """
    if component is None:
        return partial(register, kind=kind, name=name)
    kind = kind or getattr(component, "kind", None)
    if not isinstance(kind, str):
        raise UserError(f"{component!r} has no kind; derive it from a class such as methods.Method, or give kind=...")
    name = name or _own_name(component)
    known = _parts.setdefault(kind, {}).get(name)
    # A notebook's cell, or a script that is imported as well as run, registers a part again.
    if known is not None and (known.__name__ != component.__name__ or _is_own(known) != _is_own(component)):
        raise UserError(f"there is a {kind} {name} already; give another name")
    _parts[kind][name] = component
    return component


def names(kind: str) -> list[str]:
    """The names of all parts of a kind."""
    _load_entry_points()
    return list(_parts.get(kind, {}))


def find(kind: str, name: str) -> Any:
    """The part with a name: a class of parts, or a function that is a part.

    Raises:
        UserError: if there is none.
    """
    if name not in _parts.get(kind, {}):
        _load_entry_points()
    if name not in _parts.get(kind, {}):
        near = difflib.get_close_matches(str(name), names(kind), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names(kind))}"
        message = f"there is no {kind} {name}; {hint} (ss.register gives a part of your own a name)"
        raise UnknownPartError(kind, name, message)
    return _parts[kind][name]


def offer(kind: str, part: Any) -> None:
    """Has a part found by its name in this process although its class is not registered.

    Args:
        kind: its kind.
        part: the part itself. It keeps what its settings do not say, such as functions among its fields.
    """
    _offered[kind, name_of(kind, part)] = part


def offered(kind: str, name: str) -> Any:
    """The part that was offered by a name; `None` if there is none."""
    return _offered.get((kind, name))


def is_installed(part: Any) -> bool:
    """Whether every process has a part: it belongs to this package, or to one with an entry point."""
    component = type(part) if is_dataclass(part) and not isinstance(part, type) else part
    return getattr(component, "__module__", "").partition(".")[0] in _packages()


def _is_own(component: Any) -> bool:
    """Whether a part is one of this package's."""
    return component.__module__.partition(".")[0] in ("supsup_jax", "jax")


def name_of(kind: str, part: Any) -> str:
    """The name of a part, or that of its class where it has none."""
    component = type(part) if is_dataclass(part) and not isinstance(part, type) else part
    return next((name for name, known in _parts.get(kind, {}).items() if known is component), _own_name(component))


def _own_name(component: Any) -> str:
    name = getattr(component, "__dict__", {}).get("name")
    return name if isinstance(name, str) else getattr(component, "__name__", type(component).__name__)


@cache
def _packages() -> set[str]:
    """This package, and those that have entry points."""
    return {"supsup_jax"} | {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINTS)}


@cache
def _load_entry_points() -> None:
    """Loads the parts of other packages, which register themselves as they are imported."""
    for point in entry_points(group=ENTRY_POINTS):
        component = point.load()
        if getattr(component, "kind", None):
            register(component, name=point.name)
