"""Training steps of ResNets with masks of the Erdős–Rényi densities and Adam, on batches in memory.

GEMResNet18 has batches of 128 images of 32 × 32; ResNet-50 has 8 images of 64 × 64 on a CPU, and 64 of 224 × 224 on a
GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from compare import Case, Formulation


@dataclass(frozen=True)
class Setting:
    """A network with its images.

    Attributes:
        network: the name of the network.
        classes: number of outputs.
        scale: scale of the densities.
        batch: number of images per update.
        size: height and width of the images.
        steps: number of updates for each of the two tasks.
        products: number of multiplications in the forward pass of one image.
    """

    network: str
    classes: int
    scale: float
    batch: int
    size: int
    steps: int
    products: float

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a random batch of images and labels."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(self.batch, self.size, self.size, 3)).astype(np.float32)
        return images, rng.integers(0, self.classes, self.batch)


TASKS = 2
SMALLEST = "GEMResNet18, smallest"
"""A small setting to check that the suite runs."""


def settings() -> dict[str, Setting]:
    """Return the settings by name, smaller on a CPU."""
    from supsup_jax.system import backend

    large = (64, 224, 4) if backend.is_accelerator() else (8, 64, 1)
    return {
        "GEMResNet18": Setting("GEMResNet18", 5, 32.0, 128, 32, 4, 54.6e6),
        "ResNet50": Setting("ResNet50", 10, 8.0, *large, 4.09e9 * (large[1] / 224) ** 2),
        SMALLEST: Setting("GEMResNet18", 5, 32.0, 8, 16, 1, 54.6e6 / 4),
    }


def ours(name: str, masked: bool = True, side_by_side: bool = False) -> Callable[[], Callable[[], object]]:
    """Return the preparation of steps of all tasks, one after another or side by side by `vmap`."""

    def prepare() -> Callable[[], object]:
        import jax
        import optax

        from supsup_jax import masks, methods, networks, optimizers

        setting = settings()[name]
        shape = (setting.size, setting.size, 3)
        net = getattr(networks, setting.network)(setting.classes, input_shape=shape)
        method = methods.SupSup(masks.ErdosRenyi(setting.scale)) if masked else methods.UpperBound()
        weights, stats = net.init(jax.random.key(0))
        images, labels = setting.data()
        transformation = optimizers.Adam(1e-3).transformation()

        def learn(params):
            def step(carry, _):
                params, state, stats = carry

                def loss(params):
                    logits, after = net.apply(method.training_weights(weights, params), stats, images, train=True)
                    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

                (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
                update, state = transformation.update(gradient, state, params)
                return (optax.apply_updates(params, update), state, after), value

            carry = params, transformation.init(params), stats
            (params, *_), losses = jax.lax.scan(step, carry, length=setting.steps)
            return params, losses  # if the parameters were not returned, XLA would skip the last gradients

        params = jax.vmap(lambda key: method.init(key, weights))(jax.random.split(jax.random.key(1), TASKS))
        run = jax.jit(jax.vmap(learn) if side_by_side else lambda params: jax.lax.map(learn, params))
        return lambda: jax.block_until_ready(run(params))

    return prepare


def pytorch(name: str, masked: bool = True, channels_last: bool = True) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import torch
        from torch.nn import functional
        from torch_resnet import gem_resnet18, resnet50

        setting = settings()[name]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        create = {"GEMResNet18": gem_resnet18, "ResNet50": resnet50}[setting.network]
        model = create(setting.classes, setting.scale if masked else None)
        images, labels = setting.data()
        x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).to(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model, x = model.to(device, memory_format=layout), x.contiguous(memory_format=layout).to(device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, 1e-3, weight_decay=1e-4)

        def steps() -> None:
            for _ in range(TASKS * setting.steps):
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        return steps

    return prepare


def case(name: str, formulations: dict[str, Formulation]) -> Case:
    """Return the case of training a setting's network by several formulations."""
    setting = settings()[name]
    about = f"{TASKS * setting.steps} steps of {setting.batch} images of {setting.size} × {setting.size}"
    work = TASKS * setting.steps * setting.batch
    operations = 6 * setting.products * work  # forward, and the gradients of the weights and of the inputs
    return Case(f"Training {name}, {about}", work, "images", formulations, operations)


def cases() -> list[Case]:
    """Return a case for each network."""
    all_cases = []
    for name in ("GEMResNet18", "ResNet50"):
        formulations = {
            "supsup_jax": Formulation(ours(name)),
            "supsup_jax, no masks": Formulation(ours(name, masked=False)),
            "PyTorch, channels last": Formulation(pytorch(name)),
            "PyTorch, channels first": Formulation(pytorch(name, channels_last=False)),
            "PyTorch, channels last, no masks": Formulation(pytorch(name, masked=False)),
        }
        if name == "GEMResNet18":
            formulations["supsup_jax, 2 tasks by vmap"] = Formulation(ours(name, side_by_side=True))
        all_cases.append(case(name, formulations))
    return all_cases


def smallest() -> Case:
    """Return two steps of GEMResNet18 on eight small images."""
    return case(SMALLEST, {"supsup_jax": Formulation(ours(SMALLEST))})
