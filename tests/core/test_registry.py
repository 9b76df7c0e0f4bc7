"""Registration of parts by name."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import supsup_jax as ss
from helpers import adapter
from supsup_jax import methods, registry


@dataclass(frozen=True)
class Inverted(methods.SupSup):
    """Keeps the weights that a mask removes."""

    strength: float = 1.0


@pytest.fixture
def parts(monkeypatch):
    """Return the registered parts, and restore them after the test."""
    adapter.experiment("x")  # registers the built-in ones
    monkeypatch.setattr(registry, "_parts", {kind: dict(known) for kind, known in registry._parts.items()})
    yield registry._parts
    registry._load_entry_points.cache_clear()


def test_a_registered_part_can_be_chosen_by_name(parts):
    assert ss.register(Inverted) is Inverted
    experiment = adapter.experiment("x", method="Inverted", strength=0.5)
    assert experiment.method == Inverted(strength=0.5)
    assert adapter.plain(experiment)["method"] == "Inverted"
    ss.register(Inverted, name="upside down")
    assert adapter.experiment("x", method="upside down").method == Inverted()


def test_parts_of_other_packages_are_found_by_entry_points(parts, monkeypatch):
    point = SimpleNamespace(name="Inverted", module="elsewhere.methods", load=lambda: Inverted)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "supsup_jax" else [])
    registry._load_entry_points.cache_clear()
    assert "Inverted" in registry.names("method")
    assert adapter.experiment("x", method="Inverted").method == Inverted()


def test_parts_that_cannot_be_registered_or_found_are_refused(parts):
    with pytest.raises(ss.UserError, match="has no kind"):
        ss.register(dataclass(frozen=True)(type("Plain", (), {})))
    with pytest.raises(ss.UserError, match="there is a method SupSup already; choose a different name"):
        ss.register(Inverted, name="SupSup")
    with pytest.raises(ss.UserError, match="there is a method SupSup already; choose a different name"):
        ss.register(dataclass(frozen=True)(type("SupSup", (methods.SupSup,), {"__module__": "mine"})))
    with pytest.raises(ss.UserError, match="there is no method Invertd; did you mean Inverted"):
        ss.register(Inverted)
        registry.find("method", "Invertd")
