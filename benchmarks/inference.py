"""Task inference among thousands of masks of LeNet with 500 outputs or FC 1024-1024 with 100.

PyTorch's rows do the same mathematics with float masks: a superposition of all masks, the entropy, and autograd with
respect to α, in a binary search once a round. Every image needs a separate backward pass, so that at most 79 images are
timed, 4 in a binary search, and the time is scaled.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import peaks
from compare import Case, Formulation

NETWORKS = {"LeNet": (784, 300, 100, 500), "FC1024": (784, 1024, 1024, 100)}


def ours(network: str, masks: int, images: int, search: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import jax

        from supsup_jax import inference, methods, networks
        from supsup_jax.model import Model

        @partial(jax.jit, static_argnums=0)
        def random_bytes(shape: tuple[int, ...]) -> jax.Array:
            # Row by row: drawing them all at once would take several times their memory.
            keys = jax.random.split(jax.random.key(0), shape[0])
            return jax.lax.map(lambda key: jax.random.bits(key, shape[1:], "uint8"), keys)

        net = getattr(networks, network)(features=NETWORKS[network][-1])
        weights, stats = net.init(jax.random.key(0))
        bank = jax.tree.map(lambda leaf: random_bytes((*leaf.shape, -(-masks // 8))), weights)
        batch = jax.random.normal(jax.random.key(1), (images, 28, 28, 1))
        how = {"one_shot": inference.OneShot(), "binary": inference.Binary()}[search]
        model = Model(net=net, method=methods.SupSup(), num_tasks=masks, weights=weights, bank=bank, stats=stats)
        return lambda: jax.block_until_ready(inference.infer(model, batch, how))

    return prepare


def pytorch(network: str, num_masks: int, images: int, rounds: int) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        layers = list(itertools.pairwise(NETWORKS[network]))
        weights = [(torch.randint(0, 2, (o, i), device=device) * 2 - 1) * (2 / i) ** 0.5 for i, o in layers]
        masks = [torch.randint(0, 2, (num_masks, o, i), dtype=torch.uint8, device=device).float() for i, o in layers]
        batch = torch.randn(images, 784, device=device)

        def gradient_of(image: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
            x = image
            for index, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
                x = torch.nn.functional.linear(x, weight * torch.tensordot(alphas, mask, 1))
                x = x.relu() if index < len(weights) - 1 else x
            log_p = x.log_softmax(-1)
            (gradient,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), alphas)
            return gradient

        def pick(image: torch.Tensor) -> int:
            tasks = torch.arange(num_masks, device=device)
            for number in range(rounds):
                alphas = torch.zeros(num_masks, device=device)
                alphas[tasks] = 1 / len(tasks)
                order = gradient_of(image, alphas.requires_grad_())[tasks].argsort()
                tasks = tasks[order[: 1 if number == rounds - 1 else -(-len(tasks) // 2)]]
            return int(tasks[0])

        return lambda: [pick(image) for image in batch]

    return prepare


def cases() -> list[Case]:
    """Return one-shot and binary search for each network, number of masks and number of images."""
    all_cases = []
    for network, masks, images in itertools.product(NETWORKS, (2500, 10000), (1, 79, 1024)):
        size = sum(inputs * outputs for inputs, outputs in itertools.pairwise(NETWORKS[network]))
        for search, passes in (("one_shot", 1), ("binary", math.ceil(math.log2(masks)))):
            formulations = {
                f"supsup_jax, {search}": Formulation(ours(network, masks, images, search), precision="tf32")
            }
            timed = min(images, 79 if passes == 1 else 4)
            if peaks.is_accelerated() or ((network, masks, search) == ("LeNet", 2500, "one_shot") and images < 1024):
                name = f"PyTorch, float masks, {passes} gradient{'s' * (passes > 1)}"
                formulations[name] = Formulation(pytorch(network, masks, timed, passes), timed / images)
            all_cases.append(
                Case(
                    f"{search} among {masks:,} masks of {network}, {images:,} image{'s' * (images > 1)}",
                    images,
                    "images",
                    formulations,
                    # Every gradient times every mask. In all but the first round, also a superposition for every image;
                    # the first round counts bits instead, which costs less.
                    operations=2.0 * masks * size * images * (2 * passes - 1) if images > 1 else 0.0,
                    num_bytes=2 * passes * masks * size / 8,
                )
            )
    return all_cases


def smallest() -> list[Case]:
    """Return binary search for one image among 16 masks."""
    formulations = {
        "supsup_jax, binary": Formulation(ours("LeNet", 16, 1, "binary")),
        "PyTorch, float masks, 4 gradients": Formulation(pytorch("LeNet", 16, 1, 4)),
    }
    return [Case("binary among 16 masks of LeNet, 1 image", 1, "images", formulations)]
