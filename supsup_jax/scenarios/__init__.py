"""Scenarios: whether the task is given in training, and in inference."""

from supsup_jax.scenarios.scenario import GG, GNs, GNu, NNs, Scenario

__all__ = ["GG", "GNs", "GNu", "NNs", "Scenario"]
