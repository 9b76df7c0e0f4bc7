"""Settings of parts that are defined outside the package."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, registry
from supsup_jax.cli.cluster import Cluster
from supsup_jax.cli.options import Options
from supsup_jax.cli.program import PACKAGE, program_of
from supsup_jax.runs import composition, formats


@dataclass(frozen=True)
class CustomMethod(methods.SupSup):
    """A method with fields named like a field of another part, a script flag, a kind of part, and none of these."""

    scale: float = 2.0
    memory: int = 3
    source: str = "x"
    leak: float = 0.5


@dataclass(frozen=True)
class CustomNetwork(networks.LeNet):
    scale: float = 1.0


@dataclass(frozen=True)
class WithFunction(methods.SupSup):
    function: Callable[[float], float] = abs


def above_zero(scores):
    return masks.threshold(scores)


def experiment(network: networks.Network | None = None, method: methods.Method | None = None, **changes):
    tasks = data.Permuted(data.Digits(), num_tasks=3)
    return ss.Experiment("own", tasks, network or networks.LeNet(20), method or methods.SupSup(), **changes)


def test_clashing_settings_are_prefixed_with_the_kind_of_their_part():
    custom = experiment(CustomNetwork(20), CustomMethod())
    settings = composition.plain(custom)
    expected = {"network_scale": 1.0, "method_scale": 2.0, "method_memory": 3, "method_source": "x", "leak": 0.5}
    assert {name: settings[name] for name in expected} == expected
    assert not {"scale", "memory", "source"} & settings.keys()
    changed = composition.changed(custom, method_scale=5.0, network_scale=4.0, method_source="y")
    assert changed == experiment(CustomNetwork(20, scale=4.0), CustomMethod(scale=5.0, source="y"))


def test_a_setting_without_a_clash_has_the_name_of_its_field():
    assert composition.plain(experiment(CustomNetwork(20)))["scale"] == 1.0


def test_no_setting_has_the_name_of_a_script_option():
    of_scripts = {field.name for kind in (Options, Cluster) for field in fields(kind)}
    assert set(formats.OPTIONS) == of_scripts | {"help", "sparsity"}


def test_an_offered_part_is_found_by_its_name_and_keeps_its_functions(monkeypatch):
    monkeypatch.setattr(registry, "_offered", {})
    custom = experiment(method=WithFunction(above_zero, round))
    with pytest.raises(registry.UnknownPartError, match="there is no method WithFunction"):
        composition.experiment_of(composition.plain(custom))
    for kind, part in composition.objects_of(custom).items():
        registry.offer(kind, part)
    assert composition.experiment_of(composition.plain(custom)) == custom


def test_a_part_that_settings_cannot_express_is_named_in_the_error():
    images = data.Digits().load(Path()).test
    pair = images.images, images.labels
    custom = ss.Experiment("own", data.Permuted(data.Arrays(pair, pair), num_tasks=3), networks.LeNet(20))
    with pytest.raises(registry.UnknownPartError, match="source arrays needs test, train, which settings cannot"):
        composition.experiment_of(composition.plain(custom))


@pytest.mark.parametrize(
    ("custom", "needs_script"),
    [
        (experiment(), False),
        (experiment(method=methods.SupSup(masks.ErdosRenyi(2.0))), False),
        (experiment(scenario=ss.scenarios.GNu(ss.Exhaustive(ss.maximum))), False),
        (experiment(method=CustomMethod()), True),
        (experiment(method=methods.SupSup(above_zero)), True),
    ],
)
def test_only_parts_defined_in_a_script_need_the_script(custom, needs_script, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    assert (program_of(custom) != PACKAGE) is needs_script
