"""Networks as pure functions of their weights, and the initialisers that draw them."""

from supsup_jax.networks.initializers import (
    Initializer,
    draw,
    kaiming_normal,
    kaiming_uniform,
    signed_constant,
    xavier_normal,
)
from supsup_jax.networks.mlp import FC1024, LeNet
from supsup_jax.networks.network import Network, Stats, Weights

__all__ = [
    "FC1024",
    "Initializer",
    "LeNet",
    "Network",
    "Stats",
    "Weights",
    "draw",
    "kaiming_normal",
    "kaiming_uniform",
    "signed_constant",
    "xavier_normal",
]
