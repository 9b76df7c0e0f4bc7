"""Training: LeNet 300-100 and FC 1024-1024 with 100 outputs, threshold masks, RMSprop, batches of 128."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from compare import Case, Formulation

STEPS = {"LeNet": 300, "FC1024": 60}
TASKS = 4
BATCH = 128
SIZES = {"LeNet": (784, 300, 100, 100), "FC1024": (784, 1024, 1024, 100)}

# Loading samples one by one is so slow that this formulation runs fewer steps.
LOADER_STEPS = 60

Prepare = Callable[[], Callable[[], object]]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60000, 784), dtype=np.uint8), rng.integers(0, 10, 60000)


def ours(network: str, all_cores: bool, tasks: int = TASKS, steps: int | None = None) -> Prepare:
    """Return the preparation of the training of tasks: side by side on an accelerator, one after another on a CPU."""

    def prepare() -> Callable[[], object]:
        from supsup_jax.system import devices

        if all_cores:
            devices.use_all_cores()
        import jax
        import jax.numpy as jnp

        from supsup_jax import methods, networks, optimizers, training
        from supsup_jax.data import Dataset, PermutedMNIST, Samples

        images, labels = data()
        split = Samples(images.reshape(-1, 28, 28, 1), labels.astype(np.int32))
        dataset = Dataset(split, split, (0.1307,), (0.3081,))
        benchmark = PermutedMNIST.of(dataset)
        net, method = getattr(networks, network)(features=SIZES[network][-1]), methods.SupSup()
        weights, stats = net.init(training.weights_key(0))

        def learn(shared, task_and_key):
            learner = training.Learner(net, method, optimizers.RMSprop())
            return training.train_task(
                learner,
                *task_and_key,
                shared=training.Shared(*shared),
                benchmark=benchmark,
                steps=steps or STEPS[network],
                batch_size=BATCH,
                validate=lambda *_: jnp.float32(0),
            )

        keys = jax.vmap(lambda task: training.task_key(0, task))(np.arange(tasks))
        run = devices.over_tasks(learn)
        shared = devices.replicate((weights, stats, split))
        described = (benchmark.tasks(dataset, 0, range(tasks)), keys)
        return lambda: jax.block_until_ready(run(shared, described))

    return prepare


def pytorch(
    network: str,
    convolutions: bool,
    loader: bool = False,
    tasks: int = TASKS,
    form: str = "eager",
    steps: int | None = None,
) -> Prepare:
    """Return the preparation of the same training in PyTorch.

    Args:
        network: one of `SIZES`.
        convolutions: whether layers are 1 × 1 convolutions, as in the original.
        loader: whether samples are loaded one by one through PIL, torchvision and a data loader, as in the original,
            instead of in whole batches from memory. On a GPU four processes load them, on a CPU this process.
        tasks: number of tasks, one after another.
        form: "eager", "compiled", or "graph": a CUDA graph of an update. The last two round products to TensorFloat-32,
            as JAX does on a GPU.
        steps: number of updates of a task; by default `STEPS`.
    """
    batches = (steps or STEPS[network]) * BATCH

    def prepare() -> Callable[[], object]:
        import torch
        from torch import nn

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if form == "graph" and device != "cuda":
            raise RuntimeError("a CUDA graph requires a GPU")
        permutation = torch.randperm(784)

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

        images, labels = (torch.from_numpy(array).to("cpu" if loader else device) for array in data())

        def from_memory():
            for rows in torch.randperm(60000, device=device)[:batches].reshape(-1, BATCH):
                yield (images[rows][:, permutation].float() / 255 - 0.1307) / 0.3081, labels[rows]

        def from_loader():
            from PIL import Image
            from torchvision import transforms

            def permute(pixels):
                return pixels.flatten()[permutation]

            transform = transforms.Compose(
                [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,)), permute],
            )

            class Samples(torch.utils.data.Dataset):
                def __len__(self):
                    return len(labels)

                def __getitem__(self, row):
                    return transform(Image.fromarray(images[row].reshape(28, 28).numpy())), int(labels[row])

            workers = 4 if device == "cuda" else 0
            batches = torch.utils.data.DataLoader(Samples(), BATCH, shuffle=True, num_workers=workers)
            return itertools.islice(batches, LOADER_STEPS)

        if form != "eager":
            torch.set_float32_matmul_precision("high")
        # Scores of later tasks start from those of the task before, which takes the same time.
        layers = [Masked(inputs, outputs) for inputs, outputs in itertools.pairwise(SIZES[network])]
        model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).to(device)
        optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, capturable=form == "graph")

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(model(x[..., None, None] if convolutions else x).flatten(1), y)

        loss = torch.compile(loss_of, mode="reduce-overhead") if form == "compiled" else loss_of

        def update(x: torch.Tensor, y: torch.Tensor) -> None:
            optimizer.zero_grad()
            loss(x.to(device), y.to(device)).backward()
            optimizer.step()

        def task() -> None:
            for x, y in from_loader() if loader else from_memory():
                update(x, y)

        def recorded() -> Callable[[], None]:
            """Return a task whose updates replay a CUDA graph, which begins with the rows of a batch."""
            rows, graph, stream = torch.arange(BATCH, device=device), torch.cuda.CUDAGraph(), torch.cuda.Stream()
            columns = permutation.to(device)

            def from_rows() -> None:
                update((images[rows][:, columns].float() / 255 - 0.1307) / 0.3081, labels[rows])

            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # the first updates allocate memory
                    from_rows()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                from_rows()

            def task() -> None:
                for batch in torch.randperm(60000, device=device)[:batches].reshape(-1, BATCH):
                    rows.copy_(batch)
                    graph.replay()

            return task

        run = recorded() if form == "graph" else task

        def call() -> None:
            for _ in range(1 if loader else tasks):
                run()
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    return prepare


def work_of_step(sizes: Sequence[int]) -> tuple[float, float]:
    """Return the operations of an update of dense layers, and the bytes that it moves if no cache keeps any.

    These are the scores and their second moments, read and written, and the weights, read.
    """
    products = [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]
    # Forward, and the gradients of the weights, and of the inputs of all layers but the first.
    return 2.0 * BATCH * (3 * sum(products) - products[0]), 5.0 * 4 * sum(products)


def cases() -> list[Case]:
    """Return a case for each network."""
    all_cases = []
    for network, sizes in SIZES.items():
        operations, _ = work_of_step(sizes)
        work = TASKS * STEPS[network]
        formulations = {
            "supsup_jax, a device for each core": Formulation(ours(network, all_cores=True), precision="tf32"),
            "supsup_jax, one device": Formulation(ours(network, all_cores=False), precision="tf32"),
            "PyTorch, matrix products, data in memory": Formulation(pytorch(network, convolutions=False)),
            "PyTorch, 1×1 convolutions as in the original, data in memory": Formulation(pytorch(network, True)),
            "PyTorch, 1×1 convolutions, a loader through PIL as in the original": Formulation(
                pytorch(network, convolutions=True, loader=True), LOADER_STEPS / work
            ),
        }
        name = f"Training {network} {'-'.join(map(str, sizes))}, {TASKS} tasks of {STEPS[network]} steps"
        all_cases.append(Case(name, work, "steps", formulations, operations=work * operations))
    return all_cases
