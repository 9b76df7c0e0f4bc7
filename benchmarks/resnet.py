"""Training images a second: GEMResNet18, masks of the 32-fold Erdős–Rényi densities, Adam, batches of 128 in memory.

Command: python benchmarks/resnet.py   (rows of PyTorch need `pip install torch`; without it they are left out)
"""

import math
from collections.abc import Callable

import compare
import numpy as np

TASKS = 2
STEPS = 4
BATCH = 128
SCALE = 32.0


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32), rng.integers(0, 5, BATCH)


def ours(masked: bool = True, xla_convolution: bool = False, side_by_side: bool = False):
    """Steps of all tasks: one after another, or by `vmap`, which makes grouped convolutions of XLA's."""

    def prepare() -> Callable[[], object]:
        import jax
        import optax

        from supsup_jax import backend, masks, methods, networks, optimizers

        if xla_convolution:
            backend.is_accelerator = lambda: True
        net = networks.GEMResNet18(5)
        method = methods.SupSup(masks.ErdosRenyi(SCALE)) if masked else methods.UpperBound()
        weights, stats = net.init(jax.random.key(0))
        images, labels = data()
        transformation = optimizers.Adam(1e-3).transformation()

        def learn(owned):
            def step(carry, _):
                owned, state, stats = carry

                def loss(owned):
                    logits, after = net.apply(method.effective(weights, owned), stats, images, train=True)
                    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

                (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(owned)
                update, state = transformation.update(gradient, state, owned)
                return (optax.apply_updates(owned, update), state, after), value

            return jax.lax.scan(step, (owned, transformation.init(owned), stats), length=STEPS)[1]

        owned = jax.vmap(lambda key: method.init_task(key, weights))(jax.random.split(jax.random.key(1), TASKS))
        run = jax.jit(jax.vmap(learn) if side_by_side else lambda owned: jax.lax.map(learn, owned))
        return lambda: jax.block_until_ready(run(owned))

    return prepare


def pytorch(masked: bool = True, channels_last: bool = True):
    def prepare() -> Callable[[], object]:
        import torch
        from torch import nn
        from torch.nn import functional

        class Largest(torch.autograd.Function):
            @staticmethod
            def forward(ctx, magnitudes, density):
                mask = torch.ones_like(magnitudes).flatten()
                dropped = int((1 - density) * magnitudes.numel())
                mask[magnitudes.flatten().argsort()[:dropped]] = 0
                return mask.view_as(magnitudes)

            @staticmethod
            def backward(ctx, gradient):
                return gradient, None

        class Convolution(nn.Conv2d):
            def __init__(self, inputs: int, outputs: int, window: int, stride: int = 1):
                super().__init__(inputs, outputs, window, stride, window // 2, bias=False)
                if masked:
                    constant = math.sqrt(2 / (inputs * window**2))
                    self.scores = nn.Parameter(self.weight.detach().clone())
                    self.weight = nn.Parameter(constant * self.weight.detach().sign(), requires_grad=False)
                    self.density = min(0.5, SCALE * (inputs + outputs) / (inputs * outputs * window**2))

            def forward(self, x):
                weight = self.weight * Largest.apply(self.scores.abs(), self.density) if masked else self.weight
                return functional.conv2d(x, weight, None, self.stride, self.padding)

        def norm(channels: int) -> nn.Module:
            return nn.BatchNorm2d(channels, affine=False)

        class Block(nn.Module):
            def __init__(self, inputs: int, outputs: int, stride: int):
                super().__init__()
                self.body = nn.Sequential(
                    Convolution(inputs, outputs, 3, stride),
                    norm(outputs),
                    nn.ReLU(),
                    Convolution(outputs, outputs, 3),
                    norm(outputs),
                )
                shortcut = [Convolution(inputs, outputs, 1, stride), norm(outputs)] if stride > 1 else []
                self.shortcut = nn.Sequential(*shortcut)

            def forward(self, x):
                return functional.relu(self.body(x) + self.shortcut(x))

        stages = [(20, 20, 1), (20, 20, 1), (20, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1), (80, 160, 2)]
        blocks = [Block(*stage) for stage in [*stages, (160, 160, 1)]]
        model = nn.Sequential(
            Convolution(3, 20, 3), norm(20), nn.ReLU(), *blocks, nn.AvgPool2d(4), Convolution(160, 5, 1), nn.Flatten()
        )
        images, labels = data()
        x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model, x = model.to(memory_format=layout), x.contiguous(memory_format=layout)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, 1e-3, weight_decay=1e-4)

        def steps() -> None:
            for _ in range(TASKS * STEPS):
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()

        return steps

    return prepare


if __name__ == "__main__":
    compare.main(
        f"{TASKS} tasks of {STEPS} steps of {BATCH} images",
        {
            "supsup_jax, shifted products": ours(),
            "supsup_jax, no masks": ours(masked=False),
            "supsup_jax, shifted products, 2 tasks by vmap": ours(side_by_side=True),
            "supsup_jax, XLA's convolutions": ours(xla_convolution=True),
            "supsup_jax, XLA's convolutions, 2 tasks by vmap": ours(xla_convolution=True, side_by_side=True),
            "PyTorch, channels last": pytorch(),
            "PyTorch, channels first": pytorch(channels_last=False),
            "PyTorch, channels last, no masks": pytorch(masked=False),
        },
        work=TASKS * STEPS * BATCH,
        unit="images",
    )
