"""Training steps a second: LeNet 300-100 with 100 outputs, threshold masks, RMSprop, batches of 128, data in memory.

Command: python benchmarks/train.py   (rows of PyTorch need `pip install torch`; without it they are left out)
"""

import itertools
from collections.abc import Callable

import compare
import numpy as np

STEPS = 300
TASKS = 4
SIZES = (784, 300, 100, 100)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60000, 784), dtype=np.uint8), rng.integers(0, 10, 60000)


def ours(all_cores: bool) -> compare.Formulation:
    def prepare() -> Callable[[], object]:
        from supsup_jax import parallel

        if all_cores:
            parallel.use_all_cores()
        import jax
        import jax.numpy as jnp

        from supsup_jax import methods, networks, optimizers, training
        from supsup_jax.data import Dataset, PermutedMNIST, Split

        images, labels = data()
        split = Split(images.reshape(-1, 28, 28, 1), labels.astype(np.int32))
        dataset = Dataset(split, split, (0.1307,), (0.3081,))
        benchmark = PermutedMNIST.of(dataset)
        net, method = networks.LeNet(features=SIZES[-1]), methods.SupSup()
        weights, stats = net.init(training.weights_key(0))

        def learn(shared, one):
            learner = training.Learner(net, method, optimizers.RMSprop())
            return training.train_task(learner, benchmark, STEPS, 128, lambda *_: jnp.float32(0), *shared, *one)

        keys = jax.vmap(lambda task: training.task_key(0, task))(np.arange(TASKS))
        run = parallel.over_tasks(learn)
        shared = parallel.replicate((weights, stats, split))
        tasks = (benchmark.tasks(dataset, 0, range(TASKS)), keys)
        return lambda: jax.block_until_ready(run(shared, tasks))

    return prepare


def pytorch(convolutions: bool) -> compare.Formulation:
    def prepare() -> Callable[[], object]:
        import torch
        from torch import nn

        class Threshold(torch.autograd.Function):
            @staticmethod
            def forward(ctx, scores):
                return (scores >= 0).float()

            @staticmethod
            def backward(ctx, gradient):
                return gradient

        class Masked(nn.Module):
            def __init__(self, inputs: int, outputs: int):
                super().__init__()
                shape = (outputs, inputs, 1, 1) if convolutions else (outputs, inputs)
                constant = (2 / inputs) ** 0.5
                self.register_buffer("weight", torch.randint(0, 2, shape) * 2 * constant - constant)
                self.scores = nn.Parameter((torch.rand(shape) * 2 - 1) / inputs**0.5)

            def forward(self, x):
                multiply = nn.functional.conv2d if convolutions else nn.functional.linear
                return multiply(x, self.weight * Threshold.apply(self.scores))

        images, labels = (torch.from_numpy(array) for array in data())

        def task() -> None:
            layers = [Masked(inputs, outputs) for inputs, outputs in itertools.pairwise(SIZES)]
            model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
            optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
            pixels = torch.randperm(784)
            for rows in torch.randperm(60000)[: STEPS * 128].reshape(STEPS, 128):
                x = (images[rows][:, pixels].float() / 255 - 0.1307) / 0.3081
                logits = model(x[..., None, None] if convolutions else x).flatten(1)
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, labels[rows]).backward()
                optimizer.step()

        return lambda: [task() for _ in range(TASKS)]

    return prepare


if __name__ == "__main__":
    compare.main(
        f"{TASKS} tasks of {STEPS} steps, all tasks together",
        {
            "supsup_jax, a device for each core": ours(all_cores=True),
            "supsup_jax, one device": ours(all_cores=False),
            "PyTorch, matrix products": pytorch(convolutions=False),
            "PyTorch, 1x1 convolutions": pytorch(convolutions=True),
        },
        work=TASKS * STEPS,
        unit="steps",
    )
