"""Conversion between experiments and settings by flat names.

Files and command lines contain names, never import paths. A part is either registered under its name or passed as an
object. `supsup_jax.runs.formats` defines the names.
"""

import dataclasses
import difflib
import functools
import operator
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from supsup_jax import masks, registry
from supsup_jax.checks import check_number
from supsup_jax.components import register_built_in
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.experiment import Experiment, Training
from supsup_jax.optimizers import SGD
from supsup_jax.runs.formats import DEFAULTS, FLAT, KINDS, LONGER, OF_KIND, TAKEN, key_of, renamed

_FIXED = {"experiment": Experiment, "training": Training, "recovery": SGD}
"""Kinds of parts that have only one class."""


class Setting(NamedTuple):
    """A field of a part as a setting.

    Attributes:
        name: flat name.
        field: name of the field.
        type: type of the value.
        value: the value.
    """

    name: str
    field: str
    type: Any
    value: Any


@dataclass(frozen=True)
class Group:
    """Description of a part, from which the part can be built.

    Attributes:
        kind: kind of the part.
        name: name of the part.
        component: its class, or a function that is the part itself.
        settings: its settings, without those of nested parts.
        parts: nested parts, by field.
        like: an instance of the same class, which supplies the fields that are not settings.
    """

    kind: str
    name: str
    component: Any
    settings: tuple[Setting, ...] = ()
    parts: Mapping[str, "Group"] = dataclasses.field(default_factory=dict)
    like: Any = None

    @property
    def key(self) -> str | None:
        """The setting that names the part; `None` if there is no choice."""
        if self.kind in KINDS or (self.kind == "mask" and not self.settings):
            return key_of(self.kind)
        return None

    def __iter__(self) -> Iterator["Group"]:
        """Iterate over this group and the groups of all nested parts."""
        yield self
        for part in self.parts.values():
            yield from part

    @property
    def values(self) -> dict[str, Any]:
        """All settings of the part and its nested parts, by flat name."""
        named = {group.key: group.name for group in self if group.key}
        values = {setting.name: setting.value for group in self for setting in group.settings}
        first = {"name": values["name"]} if "name" in values else {}
        return first | named | values

    def make(self, values: Mapping[str, Any] | None = None) -> Any:
        """Build the part.

        Args:
            values: values by flat name that replace those of the group.

        Raises:
            UserError: if a value is out of range, or parts do not fit together. The message names settings.
        """
        values = values or {}
        fields = {setting.field: values.get(setting.name, setting.value) for setting in self.settings}
        if self.kind == "mask" and self.settings:
            return _mask(**fields)
        if not isinstance(self.component, type):
            return self.component
        for setting in self.settings:
            if fields[setting.field] is None and setting.field in _required(self.component):
                raise ArgumentError(setting.name, None, f"{self.kind} {self.name} requires a value")
        parts = {field: part.make(values) for field, part in self.parts.items()}
        if self.like is None and (missing := _required(self.component) - fields.keys() - parts.keys()):
            message = f"{self.kind} {self.name} needs {', '.join(sorted(missing))}, which settings cannot express"
            raise registry.UnknownPartError(self.kind, self.name, f"{message}; pass the object from Python")
        try:
            if self.like is not None:
                return dataclasses.replace(self.like, **parts, **fields)
            return self.component(**parts, **fields)
        except ArgumentError as error:
            raise error.renamed(self._setting_of(error.argument)) from None

    def _setting_of(self, field: str) -> str:
        """Return the flat name of a field of the part, or of one of its nested parts."""
        return next((setting.name for group in self for setting in group.settings if setting.field == field), field)


def layout(values: Mapping[str, Any], objects: Mapping[str, Any] | None = None) -> Group:
    """Return the group of the experiment that settings describe.

    Args:
        values: settings by flat name; settings that no part has are ignored.
        objects: parts by kind. A part is used if the settings name none of its kind, or name this part.

    Raises:
        UserError: if a part is unknown.
    """
    register_built_in()
    values, objects = renamed(values), objects or {}
    group = _group("experiment", values, objects)
    names = Counter(setting.name for part in group for setting in part.settings)
    if clashing := {name for name, count in names.items() if count > 1}:
        group = _group("experiment", values, objects, frozenset(clashing))
    return group


def experiment_of(values: Mapping[str, Any], objects: Mapping[str, Any] | None = None) -> Experiment:
    """Return the experiment that settings describe; for the arguments, see `layout`.

    Raises:
        UserError: if a part is unknown, a value is out of range, or parts do not fit together.
    """
    return layout(values, objects).make()


def settings_of(part: Any, kind: str = "experiment") -> dict[str, Any]:
    """Return the settings of an experiment or another part, by flat name."""
    register_built_in()
    objects = objects_of(part, kind)
    return (layout({}, objects) if kind == "experiment" else _group(kind, {}, objects)).values


def plain(part: Any, kind: str = "experiment") -> dict[str, Any]:
    """Return the settings of an experiment or another part as plain data for JSON and YAML."""
    return {name: _plain(value) for name, value in settings_of(part, kind).items()}


def changed(experiment: Experiment, **settings: Any) -> Experiment:
    """Return a copy of an experiment with some settings replaced, given by flat name.

    Raises:
        UserError: if a part is unknown, a value is out of range, or parts do not fit together.
    """
    objects = objects_of(experiment)
    return experiment_of(layout({}, objects).values | settings, objects)


def normalised(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that a run of any version recorded, in the current form; unchanged if a part is unknown."""
    try:
        values = layout(recorded).values
    except UserError:
        values = dict(recorded)
    return {name: _plain(value) for name, value in values.items()}


def settings_of_tasks(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the tasks and their data set that a run of any version recorded, in the current form.

    If the tasks are custom and unknown in this process, the result has the settings that no other part has.
    """
    register_built_in()
    values = renamed(recorded)
    others: set[str] = set()
    for kind in ("tasks", "network", "method", "scenario", "training"):
        try:
            found = _group(kind, values, {}).values
        except UserError:
            continue
        if kind == "tasks":
            return {name: _plain(value) for name, value in found.items()}
        others |= found.keys()
    others |= {name for name, (kind, _) in OF_KIND.items() if kind not in ("tasks", "source")} | set(FLAT.values())
    others |= {key_of(kind) for kind in (*KINDS, "mask") if kind not in ("tasks", "source")}
    return {name: _plain(value) for name, value in values.items() if name not in others}


def objects_of(part: Any, kind: str = "experiment") -> dict[str, Any]:
    """Return an experiment or another part, and all its nested parts, by kind."""
    found: dict[str, Any] = {}

    def take(kind: str, part: Any) -> None:
        found[kind] = part
        for field, of_kind in _parts_of(kind, type(part)).items():
            take(of_kind, getattr(part, field))

    take(kind, part)
    return found


def differences(experiment: Experiment, recorded: Mapping[str, Any]) -> list[str]:
    """Return the settings in which an experiment differs from a recorded one, except for the length of the run.

    Settings that the run did not record have their defaults, because the run may be older than the setting.
    """
    now, before = settings_of(experiment), layout(recorded, objects_of(experiment) | {"experiment": None}).values
    return [
        f"{name}: {_plain(before[name])} before, {_plain(now[name])} now"
        for name in now
        if name in before and name not in LONGER and _plain(now[name]) != _plain(before[name])
    ]


def types_of(values: Mapping[str, Any], objects: Mapping[str, Any] | None, path: Path) -> dict[str, Any]:
    """Return the types of settings by name, including settings of other parts, which version 0.1 always recorded.

    Args:
        values: settings by flat name.
        objects: parts by kind; see `layout`.
        path: file that they come from.

    Raises:
        UserError: if a setting does not exist, or names an unknown part.
    """
    group = layout(values, objects)
    known = {"er_scale": float | None, "density": float | None, "eval_at": tuple[int, ...], "log_base": int}
    known |= {"recovery_learning_rate": float} | {name: kind for name, (_, kind) in OF_KIND.items()}
    known |= {setting.name: setting.type for part in group for setting in part.settings}
    known |= {key_of(kind): str for kind in (*KINDS, "mask")}
    for name in (name for name in values if name not in known):
        shown = {"sparsity" if setting == "er_scale" else setting for setting in known}
        (near,) = difflib.get_close_matches(name, shown, n=1, cutoff=0)
        raise UserError(f"{path} sets {name}, which does not exist; did you mean {near}?")
    return {name: known[name] for name in values}


def plain_type(kind: Any) -> Any:
    """Return the type of a field, reduced to what settings support; `None` if nothing remains.

    Settings support numbers, strings, paths, literals, and tuples of these, and optional values.
    """
    if kind in (bool, int, float, str, Path) or get_origin(kind) is Literal:
        return kind
    if get_origin(kind) in (Union, types.UnionType):
        members = [plain_type(member) for member in get_args(kind) if member is not type(None)]
        members = [member for member in members if member is not None]
        if not members:
            return None
        either = functools.reduce(operator.or_, members)
        return either | None if type(None) in get_args(kind) else either
    if get_origin(kind) is tuple and all(plain_type(member) for member in get_args(kind) if member is not Ellipsis):
        return kind
    return None


def _group(
    kind: str, values: Mapping[str, Any], objects: Mapping[str, Any], clashing: frozenset[str] = frozenset()
) -> Group:
    """Return the group of a part; settings named in `clashing` are prefixed with the kind."""
    if kind == "mask":
        return _mask_group(values, objects.get("mask"))
    name, component, like = _named(kind, values, objects)
    if not isinstance(component, type):
        return Group(kind, name, component)
    parts = _parts_of(kind, component)
    hints, settings = get_type_hints(component), []
    for field in dataclasses.fields(component):
        kind_of_field = plain_type(hints[field.name])
        if field.name in parts or field.name in getattr(component, "derived", ()) or kind_of_field is None:
            continue
        flat = _flat_name(kind, field.name, clashing)
        if flat in values:
            value = values[flat]
            value = tuple(value) if isinstance(value, list) else value
        elif like is not None:
            value = getattr(like, field.name)
        elif flat in DEFAULTS:
            value = DEFAULTS[flat]
        else:
            value = _default(field)
        settings.append(Setting(flat, field.name, kind_of_field, value))
    defaults = {parts[field.name]: _default(field) for field in dataclasses.fields(component) if field.name in parts}
    given = {kind: part for kind, part in defaults.items() if part is not None} | dict(objects)
    groups = {field: _group(of_kind, values, given, clashing) for field, of_kind in parts.items()}
    return Group(kind, name, component, tuple(settings), groups, like)


def _named(kind: str, values: Mapping[str, Any], objects: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Return the name and the component of a part, and the instance that it resembles, if there is one."""
    like = objects.get(kind)
    if kind in _FIXED:
        return kind, _FIXED[kind], like
    like_name = None if like is None else registry.name_of(kind, like)
    name = values.get(key_of(kind))
    name = name or like_name or DEFAULTS[key_of(kind)]
    if like is None or name != like_name:
        like_name, like = name, registry.offered(kind, name)
    if like is not None and name == like_name:
        return name, type(like) if dataclasses.is_dataclass(like) else like, like
    return name, registry.find(kind, name), None


def _parts_of(kind: str, component: Any) -> dict[str, str]:
    """Return the kinds of the nested parts of a part, by field."""
    if not dataclasses.is_dataclass(component):
        return {}
    kinds = {name: name for name in (*KINDS, "mask", "training")}
    if kind == "search":
        kinds["optimizer"] = "recovery"
    fields = [field.name for field in dataclasses.fields(component) if field.name in kinds]
    hints = get_type_hints(component) if fields else {}
    return {field: kinds[field] for field in fields if plain_type(hints[field]) != hints[field]}


def _flat_name(kind: str, field: str, clashing: frozenset[str]) -> str:
    """Return the flat name of a field: the field name, prefixed with the kind if several parts have this field."""
    if (kind, field) in FLAT:
        return FLAT[kind, field]
    if field in OF_KIND:
        return field if OF_KIND[field][0] == kind else f"{kind}_{field}"
    return f"{kind}_{field}" if field in TAKEN or field in clashing else field


def _required(component: Any) -> set[str]:
    """Return the fields of a class that have no default."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(component) if dataclasses.is_dataclass(component) else ()
    return {
        field.name for field in fields if field.init and field.default is missing and field.default_factory is missing
    }


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _mask_group(values: Mapping[str, Any], like: Any) -> Group:
    """Return the group of a method's mask, with the settings `er_scale` and `density`; a custom mask has no settings.

    Raises:
        UnknownPartError: if the mask is custom and was not passed as an object.
    """
    name = values.get("mask")
    if name and (like is None or registry.name_of("mask", like) != name):
        like = registry.offered("mask", name)
    if name and like is None:
        raise registry.UnknownPartError("mask", name, f"there is no mask {name}; pass the function from Python")
    current = {
        "er_scale": float(like.scale) if isinstance(like, masks.ErdosRenyi) else None,
        "density": float(like.density) if isinstance(like, masks.TopK) else None,
    }
    if like is not None and like is not masks.threshold and not any(current.values()):
        return Group("mask", registry.name_of("mask", like), like)
    settings = [Setting(flat, flat, float | None, values.get(flat, value)) for flat, value in current.items()]
    return Group("mask", "", masks.threshold, tuple(settings))


def _mask(er_scale: float | None, density: float | None) -> Any:
    """Return the mask with this scale or density.

    Raises:
        UserError: if both are given, or a value is out of range.
    """
    if er_scale is not None and density is not None:
        raise ArgumentError("density", density, "conflicts with er_scale (--sparsity); give only one of them")
    if er_scale is not None:
        check_number("er_scale", er_scale)
        return masks.ErdosRenyi(er_scale)
    if density is None:
        return masks.threshold
    if not 0 < density <= 1:
        raise ArgumentError("density", density, "must be a fraction above 0, at most 1")
    return masks.TopK(density)


def _plain(value: Any) -> Any:
    """Return the value of a setting in the form for JSON and YAML."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
