"""The search with which a run infers tasks: that of its experiment, or another one that the user names."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from supsup_jax import arguments, registry
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.inference import Exhaustive, Objective, OneShot, Search, entropy, maximum, superfluous
from supsup_jax.methods import Method
from supsup_jax.networks import Network
from supsup_jax.registry import name_of


def search_for(
    experiment: Experiment,
    method: Method,
    net: Network,
    num_classes: int,
    requested: tuple[Search | str | None, Objective | str | None] = (None, None),
) -> Search:
    """Return the search that infers the tasks of single images.

    Args:
        experiment: the experiment; its search is the default if it supports the method.
        method: the method.
        net: the network.
        num_classes: maximum number of classes of a task.
        requested: search and objective, or their names, that replace those of the experiment.

    Raises:
        UserError: if the search or the objective does not support this method.
    """
    if not method.searches or net.uses_batch:
        raise UserError(
            f"{name_of('method', experiment.method)} with {name_of('network', experiment.network)} cannot infer the "
            "task of a single image; give task=..., or, for HopSupSup, call predict with images of one task"
        )
    search, objective = requested
    default = getattr(experiment.scenario, "search", None)
    if not isinstance(default, Search) or not default.serves(method):
        default = OneShot() if method.searches[0] == "OneShot" else Exhaustive()
    chosen = default if search is None else _search_of(search, default, method)
    if objective is not None:
        chosen = _with_objective(chosen, objective)
    chosen = chosen.for_classes(num_classes)
    if isinstance(chosen.objective, superfluous) and net.num_outputs == num_classes:
        raise UserError("objective superfluous requires a network with more outputs than classes; give entropy")
    return chosen


def with_settings(search: Search, settings: Mapping[str, Any]) -> Search:
    """Return a search with other values of some of its fields, such as `share` of `Shortlist`.

    Raises:
        UserError: if the search has no such field.
        ArgumentError: if a value cannot be used.
    """
    derived, types = getattr(search, "derived", ()), get_type_hints(type(search))
    possible = [field.name for field in dataclasses.fields(search) if field.name not in ("objective", *derived)]
    for name in settings:
        if name not in possible:
            advice = f"give {' or '.join(possible)}" if possible else "it has no settings"
            raise UserError(f"search {name_of('search', search)} has no setting {name}; {advice}")
    return dataclasses.replace(
        search, **{name: arguments.convert(name, settings[name], types[name]) for name in settings}
    )


def _search_of(search: Search | str, default: Search, method: Method) -> Search:
    """Return a search by its name, with the objective of the default search."""
    kinds = {name: registry.find("search", name) for name in registry.names("search")}
    possible = [name for name, kind in kinds.items() if issubclass(kind, Search) and kind().serves(method)]
    if isinstance(search, str):
        if search not in possible:
            problem = "does not support this run" if search in kinds else "is unknown"
            raise UserError(f"search {search} {problem}; give {' or '.join(possible)}")
        if type(default) is kinds[search]:
            return default
        keeps_objective = search == "exhaustive" or default.objective is not maximum
        return kinds[search](default.objective if keeps_objective else entropy)
    given: Search = arguments.convert("search", search, Search)
    if not given.serves(method):
        raise UserError(f"search {type(given).__name__} does not support this run; give {' or '.join(possible)}")
    return given


def _with_objective(search: Search, objective: Objective | str) -> Search:
    """Return the search with a different objective, which may be given by its name."""
    if isinstance(objective, str):
        possible = [name for name in registry.names("objective") if name != "maximum" or type(search) is Exhaustive]
        if objective not in possible:
            problem = "requires the search exhaustive" if objective == "maximum" else "is unknown"
            raise UserError(f"objective {objective} {problem}; give {' or '.join(possible)}")
        found = registry.find("objective", objective)
        objective = found() if isinstance(found, type) else found
    return dataclasses.replace(search, objective=objective)
