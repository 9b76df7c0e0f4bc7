"""Evaluation of all 250 tasks of LeNet: 250 × 79 inferences among 250 masks, and 2.5 million classifications.

PyTorch's row does the same mathematics with float masks, for only 2 of the tasks.
"""

import itertools
from collections.abc import Callable

import numpy as np
from compare import Case, Formulation

TASKS = 250
PYTORCH_TASKS = 2
SIZES = (784, 300, 100, 100)


def test_data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (10000, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, 10000).astype(np.int32)


def ours() -> Callable[[], object]:
    from supsup_jax.system import devices

    devices.use_all_cores()
    import jax

    from supsup_jax import evaluation, inference, methods, networks, training
    from supsup_jax.data import Dataset, PermutedMNIST, Samples
    from supsup_jax.model import Model

    split = Samples(*test_data())
    dataset = Dataset(split, split, (0.1307,), (0.3081,))
    benchmark = PermutedMNIST.of(dataset)
    net = networks.LeNet(features=SIZES[-1])
    weights, stats = net.init(training.weights_key(0))
    rng = np.random.default_rng(0)
    size = -(-TASKS // 8)
    bank = jax.tree.map(lambda leaf: rng.integers(0, 256, (*leaf.shape, size), dtype=np.uint8), weights)
    protocol = evaluation.Protocol(inference.OneShot(), images_per_task=1)
    test = benchmark.test(dataset, range(TASKS))
    model = Model(net=net, method=methods.SupSup(), num_tasks=TASKS, weights=weights, bank=bank, stats=stats)
    return lambda: evaluation.evaluate(model, test, protocol)


def pytorch() -> Callable[[], object]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = list(itertools.pairwise(SIZES))
    weights = [(torch.randint(0, 2, (o, i)) * 2 - 1).to(device) * (2 / i) ** 0.5 for i, o in layers]
    masks = [torch.randint(0, 2, (TASKS, o, i), dtype=torch.uint8).to(device).float() for i, o in layers]
    images, labels = (torch.from_numpy(array).to(device) for array in test_data())
    images = (images.reshape(-1, 784).float() / 255 - 0.1307) / 0.3081

    def logits(x: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
        for index, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
            x = torch.nn.functional.linear(x, weight * torch.tensordot(alphas, mask, 1))
            x = x.relu() if index < len(weights) - 1 else x
        return x

    def task(number: int) -> float:
        right = 0
        for x, y in zip(images.split(128), labels.split(128), strict=True):
            alphas = torch.full((TASKS,), 1 / TASKS, requires_grad=True, device=device)
            log_p = logits(x[0], alphas).log_softmax(-1)
            (gradient,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), alphas)
            with torch.no_grad():
                weights_of = [weight * mask[number] for weight, mask in zip(weights, masks, strict=True)]
                h = x
                for index, weight in enumerate(weights_of):
                    h = torch.nn.functional.linear(h, weight)
                    h = h.relu() if index < len(weights_of) - 1 else h
                right += int(((h.argmax(-1) == y) & (gradient.argmin() == number)).sum())
        return right / len(images)

    return lambda: [task(number) for number in range(PYTORCH_TASKS)]


def cases() -> list[Case]:
    """Return the only case of this suite."""
    size = sum(inputs * outputs for inputs, outputs in itertools.pairwise(SIZES))
    return [
        Case(
            f"Evaluating {TASKS} tasks of LeNet, tasks inferred once a batch",
            TASKS,
            "tasks",
            {
                "supsup_jax, a device for each core": Formulation(ours),
                "PyTorch, float masks, one gradient a batch": Formulation(pytorch, PYTORCH_TASKS / TASKS),
            },
            operations=2.0 * TASKS * (79 * TASKS * size + 10000 * size),
        )
    ]
