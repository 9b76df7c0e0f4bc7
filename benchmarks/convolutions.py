"""Convolutions of GEMResNet18 and ResNet-50 on a CPU: the layer of this package, XLA's with several flags, PyTorch's.

Each case is one layer, forward, or the gradient of its images, or that of its kernel. Networks use
`supsup_jax.networks.layers.conv_general_dilated`, which replaces XLA's convolution on CPUs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from compare import Case, Formulation


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes:
        name: name of its network.
        batch: number of images.
        size: height and width of the images.
        inputs: number of input channels.
        outputs: number of output channels.
        window: height and width of the window.
        stride: stride along both axes.
    """

    name: str
    batch: int
    size: int
    inputs: int
    outputs: int
    window: int = 3
    stride: int = 1

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding before and after, along both axes."""
        border = self.window // 2
        return (border, border), (border, border)

    @property
    def operations(self) -> float:
        """Number of operations of the forward pass, or of either gradient."""
        return 2.0 * self.batch * (self.size // self.stride) ** 2 * self.inputs * self.outputs * self.window**2

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return random images, kernel and cotangents."""
        rng = np.random.default_rng(0)
        rows = self.size // self.stride
        shapes: list[tuple[int, ...]] = [(self.batch, self.size, self.size, self.inputs)]
        shapes += [(self.window, self.window, self.inputs, self.outputs), (self.batch, rows, rows, self.outputs)]
        images, kernel, cotangents = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        return images, kernel, cotangents

    def __str__(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        window = f"{self.window} × {self.window}"
        return f"{self.name}, {self.inputs} to {self.outputs} channels at {self.size}, window {window}{stride}"


LAYERS = (
    Layer("GEMResNet18", 128, 32, 20, 20),
    Layer("GEMResNet18", 128, 32, 20, 40, stride=2),
    Layer("GEMResNet18", 128, 16, 40, 40),
    Layer("GEMResNet18", 128, 8, 80, 80),
    Layer("GEMResNet18", 128, 4, 160, 160),
    Layer("ResNet50", 8, 64, 3, 64, window=7, stride=2),
    Layer("ResNet50", 8, 16, 64, 64),
    Layer("ResNet50", 8, 16, 64, 256, window=1),
    Layer("ResNet50", 8, 4, 256, 256),
)

PARTS = ("forward", "gradient of the images", "gradient of the kernel")

CALLS = 3
"""Number of convolutions in one call: for JAX in a loop, as in training, where XLA chooses slower programs."""

FLAGS = {
    "XLA": "",
    "XLA, YNNPACK": "--xla_cpu_experimental_ynn_fusion_type="
    "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "XLA, oneDNN": "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_custom_call=true",
}
"""Flags of XLA by the name of the formulation. A version of XLA without a flag ends with a message about it."""


def of_jax(layer: Layer, part: str, by_xla: bool) -> Callable[[], Callable[[], object]]:
    """Return the preparation of convolutions by this package or by XLA."""

    def prepare() -> Callable[[], object]:
        import jax

        from supsup_jax.networks import layers

        convolve: Callable[..., Any] = jax.lax.conv_general_dilated if by_xla else layers.conv_general_dilated

        def forward(images: Any, kernel: Any) -> Any:
            numbers = ("NHWC", "HWIO", "NHWC")
            strides = (layer.stride, layer.stride)
            return convolve(images, kernel, strides, layer.padding, dimension_numbers=numbers)

        def once(images: Any, kernel: Any, cotangents: Any) -> Any:
            if part == "forward":
                return forward(images, kernel)
            if part == "gradient of the images":
                return jax.vjp(lambda images: forward(images, kernel), images)[1](cotangents)[0]
            return jax.vjp(lambda kernel: forward(images, kernel), kernel)[1](cotangents)[0]

        operands = jax.device_put(layer.arrays())

        @jax.jit
        def repeated(*operands: Any) -> Any:
            def step(last: Any, _: None) -> tuple[Any, None]:
                # XLA moves a convolution that does not depend on the step out of the loop.
                images, kernel, cotangents = operands
                tiny = 1e-30 * last.ravel()[0]
                if part == PARTS[2]:
                    return once(images, kernel, cotangents + tiny), None
                return once(images, kernel + tiny, cotangents), None

            like = jax.eval_shape(once, *operands)
            return jax.lax.scan(step, jax.numpy.zeros(like.shape), length=CALLS)[0]

        return lambda: jax.block_until_ready(repeated(*operands))

    return prepare


def of_pytorch(layer: Layer, part: str) -> Callable[[], Callable[[], object]]:
    """Return the preparation of convolutions by PyTorch, channels last."""

    def prepare() -> Callable[[], object]:
        import torch

        images, kernel, cotangents = (torch.from_numpy(array) for array in layer.arrays())
        images, cotangents = images.permute(0, 3, 1, 2), cotangents.permute(0, 3, 1, 2)
        kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        strides, padding = (layer.stride, layer.stride), (layer.window // 2, layer.window // 2)
        wanted = [part == name for name in PARTS[1:]] + [False]

        def once() -> object:
            if part == "forward":
                return torch.conv2d(images, kernel, None, strides, padding)
            return torch.ops.aten.convolution_backward(
                cotangents, images, kernel, None, strides, padding, (1, 1), False, (0, 0), 1, wanted
            )

        return lambda: [once() for _ in range(CALLS)]

    return prepare


def case(layer: Layer, part: str) -> Case:
    """Return the case of a part of a layer."""
    formulations = {"supsup_jax": Formulation(of_jax(layer, part, by_xla=False))}
    for name, flags in FLAGS.items():
        formulations[name] = Formulation(of_jax(layer, part, by_xla=True), flags=flags)
    formulations |= {"PyTorch, channels last": Formulation(of_pytorch(layer, part))}
    return Case(f"{layer}, {part}", CALLS, "calls", formulations, CALLS * layer.operations)


def cases() -> list[Case]:
    """Return a case for each part of each layer."""
    return [case(layer, part) for layer in LAYERS for part in PARTS]
