"""Task inference among 2,500 masks of LeNet 300-100 with 500 outputs, for 1 image and for 79.

Command: python benchmarks/inference.py   (rows of PyTorch need `pip install torch`; without it they are left out)

PyTorch's rows are the same mathematics with float masks: one superposition of all masks, the entropy, and autograd
with respect to α. Of more than one image each needs a backward pass of its own.
"""

import itertools
from collections.abc import Callable

import compare
import numpy as np

MASKS = 2500
SIZES = (784, 300, 100, 500)


def ours(search: str, images: int) -> compare.Formulation:
    def prepare() -> Callable[[], object]:
        import jax
        import jax.numpy as jnp

        from supsup_jax import inference, networks

        net = networks.LeNet(features=SIZES[-1])
        weights, stats = net.init(jax.random.key(0))
        rng = np.random.default_rng(0)
        bank = jax.tree.map(
            lambda leaf: jnp.asarray(rng.integers(0, 256, (*leaf.shape, -(-MASKS // 8)), dtype=np.uint8)), weights
        )
        batch = jnp.asarray(rng.normal(size=(images, 28, 28, 1)), jnp.float32)
        pick = getattr(inference, search)
        return lambda: jax.block_until_ready(pick(net, weights, stats, bank, MASKS, batch))

    return prepare


def pytorch(images: int) -> compare.Formulation:
    def prepare() -> Callable[[], object]:
        import torch

        layers = list(itertools.pairwise(SIZES))
        weights = [torch.randint(0, 2, (o, i)) * 2 * (2 / i) ** 0.5 - (2 / i) ** 0.5 for i, o in layers]
        masks = [torch.randint(0, 2, (MASKS, o, i), dtype=torch.uint8).float() for i, o in layers]
        batch = torch.randn(images, 784)

        def pick(image: torch.Tensor) -> int:
            alphas = torch.full((MASKS,), 1 / MASKS, requires_grad=True)
            x = image
            for index, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
                x = torch.nn.functional.linear(x, weight * torch.tensordot(alphas, mask, 1))
                x = x.relu() if index < len(weights) - 1 else x
            log_p = x.log_softmax(-1)
            (gradient,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), alphas)
            return int(gradient.argmin())

        return lambda: [pick(image) for image in batch]

    return prepare


if __name__ == "__main__":
    for images in (1, 79):
        compare.main(
            f"{MASKS} masks, {images} image(s)",
            {
                f"supsup_jax, one_shot, {images}": ours("one_shot", images),
                f"supsup_jax, binary, {images}": ours("binary", images),
                f"PyTorch, float masks, one gradient, {images}": pytorch(images),
            },
            work=images,
            unit="images",
            rounds=3 if images == 1 else 1,
        )
