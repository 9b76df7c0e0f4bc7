"""Networks as pure functions of their weights, and the initialisers that draw them."""

from supsup_jax.networks.initializers import (
    INITIALIZERS,
    Initializer,
    InitializerName,
    draw,
    glorot_uniform,
    kaiming_normal,
    kaiming_uniform,
    pytorch_default,
    signed_constant,
    unsigned_constant,
    xavier_constant,
    xavier_normal,
)
from supsup_jax.networks.mlp import FC1024, BNNet, LeNet
from supsup_jax.networks.network import CustomNetwork, Network, Rotated, SizedNetwork, Stats, Weights, has_convolutions
from supsup_jax.networks.pretrained import load_weights, save_weights
from supsup_jax.networks.resnet import DType, GEMResNet18, ImageNetResNet, ResNet18, ResNet50, ResNet101

__all__ = [
    "FC1024",
    "INITIALIZERS",
    "BNNet",
    "CustomNetwork",
    "DType",
    "GEMResNet18",
    "ImageNetResNet",
    "Initializer",
    "InitializerName",
    "LeNet",
    "Network",
    "ResNet18",
    "ResNet50",
    "ResNet101",
    "Rotated",
    "SizedNetwork",
    "Stats",
    "Weights",
    "draw",
    "glorot_uniform",
    "has_convolutions",
    "kaiming_normal",
    "kaiming_uniform",
    "load_weights",
    "pytorch_default",
    "save_weights",
    "signed_constant",
    "unsigned_constant",
    "xavier_constant",
    "xavier_normal",
]
