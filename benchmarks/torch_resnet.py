"""GEMResNet18 and ResNet-50 with PyTorch's standard layers, with top-k masks or without masks."""

import math

import torch
from torch import nn
from torch.nn import functional


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, magnitudes, density):
        mask = torch.ones_like(magnitudes).flatten()
        mask[magnitudes.flatten().argsort()[: int((1 - density) * magnitudes.numel())]] = 0
        return mask.view_as(magnitudes)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class _Convolution(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, window: int, stride: int = 1, scale: float | None = None):
        super().__init__(inputs, outputs, window, stride, window // 2, bias=False)
        self.masked = scale is not None
        if scale is not None:
            constant = math.sqrt(2 / (inputs * window**2))
            self.scores = nn.Parameter(self.weight.detach().clone())
            self.weight = nn.Parameter(constant * self.weight.detach().sign(), requires_grad=False)
            self.density = min(0.5, scale * (inputs + outputs) / (inputs * outputs * window**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight * _Largest.apply(self.scores.abs(), self.density) if self.masked else self.weight
        return functional.conv2d(x, weight, None, self.stride, self.padding)


def _normed(
    inputs: int, outputs: int, window: int, stride: int, scale: float | None, affine: bool = False
) -> list[nn.Module]:
    """Return a convolution and its batch norm."""
    return [_Convolution(inputs, outputs, window, stride, scale), nn.BatchNorm2d(outputs, affine=affine)]


class _Residual(nn.Module):
    def __init__(self, body: list[nn.Module], shortcut: list[nn.Module]):
        super().__init__()
        self.body, self.shortcut = nn.Sequential(*body), nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def _block(inputs: int, outputs: int, stride: int, affine: bool, scale: float | None) -> nn.Module:
    body = _normed(inputs, outputs, 3, stride, scale, affine)
    body += [nn.ReLU(), *_normed(outputs, outputs, 3, 1, scale, affine)]
    return _Residual(body, _normed(inputs, outputs, 1, stride, scale, affine) if stride > 1 else [])


def _bottleneck(inputs: int, channels: int, stride: int, scale: float | None) -> nn.Module:
    outputs = 4 * channels
    body = [*_normed(inputs, channels, 1, 1, scale), nn.ReLU(), *_normed(channels, channels, 3, stride, scale)]
    body += [nn.ReLU(), *_normed(channels, outputs, 1, 1, scale)]
    changes = stride > 1 or inputs != outputs
    return _Residual(body, _normed(inputs, outputs, 1, stride, scale) if changes else [])


def resnet50(classes: int, scale: float | None) -> nn.Module:
    """Return the network for ImageNet; only trained parameters require a gradient.

    Args:
        classes: number of outputs.
        scale: scale of the Erdős–Rényi densities of the masks; with `None` all weights are trained.
    """
    blocks, inputs = [], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for index in range(count):
            blocks.append(_bottleneck(inputs, 64 * 2**stage, 2 if stage and not index else 1, scale))
            inputs = 4 * 64 * 2**stage
    return nn.Sequential(
        _Convolution(3, 64, 7, 2, scale),
        nn.BatchNorm2d(64, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        _Convolution(2048, classes, 1, 1, scale),
        nn.Flatten(),
    )


def gem_resnet18(classes: int, scale: float | None, affine: bool = False) -> nn.Module:
    """Return the network; only trained parameters require a gradient.

    Args:
        classes: number of outputs.
        scale: scale of the Erdős–Rényi densities of the masks; with `None` all weights are trained.
        affine: whether batch norm has gains and biases.
    """
    stages = [(20, 20, 1), (20, 20, 1), (20, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1), (80, 160, 2)]
    return nn.Sequential(
        _Convolution(3, 20, 3, 1, scale),
        nn.BatchNorm2d(20, affine=affine),
        nn.ReLU(),
        *(_block(*stage, affine, scale) for stage in [*stages, (160, 160, 1)]),
        nn.AvgPool2d(4),
        _Convolution(160, classes, 1, 1, scale),
        nn.Flatten(),
    )
