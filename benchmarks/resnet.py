"""Training steps of ResNets with masks of the Erdős–Rényi densities and Adam, on batches in memory.

GEMResNet18 has batches of 128 images of 32 × 32; ResNet-50 has 8 images of 64 × 64 on a CPU, and 256 of 224 × 224 on a
GPU. Three rows measure parts of an update: the masks alone, the random crops alone, and an update in which batch norm
uses its running statistics. On a GPU, products are in TensorFloat-32 (JAX's default there), float32 or bfloat16.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import peaks
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
        blocks: number of blocks of each stage, if it differs from the network's, to compile in seconds.
    """

    network: str
    classes: int
    scale: float
    batch: int
    size: int
    steps: int
    products: float
    blocks: tuple[int, ...] = ()

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a random batch of images and labels."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(self.batch, self.size, self.size, 3)).astype(np.float32)
        return images, rng.integers(0, self.classes, self.batch)


TASKS = 2
GEM_PRODUCTS = 54.6e6
"""Multiplications in the forward pass of one image by GEMResNet18."""

SMALLEST = ("GEMResNet18, smallest", "ResNet50, smallest")
"""Small settings to check that the suite runs."""

WIDTHS = (2, 4, 8, 20)
"""Numbers of tasks side by side on a GPU; `vmap` makes grouped convolutions of them."""


def settings() -> dict[str, Setting]:
    """Return the settings by name, smaller on a CPU."""
    large = (256, 224, 4) if peaks.is_accelerated() else (8, 64, 1)
    return {
        "GEMResNet18": Setting("GEMResNet18", 5, 32.0, 128, 32, 4, GEM_PRODUCTS),
        "ResNet50": Setting("ResNet50", 10, 8.0, *large, 4.09e9 * (large[1] / 224) ** 2),
        SMALLEST[0]: Setting("GEMResNet18", 5, 32.0, 8, 32, 1, 7.9e6, (1,)),
        SMALLEST[1]: Setting("ResNet50", 10, 8.0, 2, 32, 1, 4.09e9 / 49),
    }


def network_of(setting: Setting, precision: str = "float32") -> Any:
    """Return the network of a setting; in bfloat16 its activations have this type."""
    import jax.numpy as jnp

    from supsup_jax import networks

    shape = (setting.size, setting.size, 3)
    net = getattr(networks, setting.network)(setting.classes, input_shape=shape)
    changes: dict[str, Any] = {"dtype": jnp.bfloat16} if precision == "bfloat16" else {}
    changes |= {"blocks": setting.blocks} if setting.blocks else {}
    return networks.Network(net.module.clone(**changes), input_shape=shape) if changes else net


def ours(
    name: str,
    precision: str = "float32",
    masked: bool = True,
    side_by_side: int = 0,
    running: bool = False,
    all_cores: bool = False,
) -> Callable[[], Callable[[], object]]:
    """Return the preparation of steps of tasks.

    Args:
        name: the name of the setting.
        precision: precision of the products, one of `peaks.PRODUCTS`.
        masked: whether tasks train masks; otherwise all weights.
        side_by_side: number of tasks side by side, by `vmap`; with 0, `TASKS` tasks one after another.
        running: whether batch norm uses its running statistics, as in evaluation.
        all_cores: whether the tasks are spread over one CPU device for each core, as scripts do.
    """

    def prepare() -> Callable[[], object]:
        import jax
        import optax

        from supsup_jax import masks, methods, optimizers
        from supsup_jax.system import devices

        if all_cores:
            devices.use_all_cores()
            if jax.local_device_count() == 1:
                raise RuntimeError("JAX has one device; with several cores, measure this row in a separate process")
        setting = settings()[name]
        net = network_of(setting, precision)
        method = methods.SupSup(masks.ErdosRenyi(setting.scale)) if masked else methods.UpperBound()
        weights, stats = net.init(jax.random.key(0))
        images, labels = setting.data()
        transformation = optimizers.Adam(1e-3).transformation()

        def learn(params, images, labels):
            def step(carry, _):
                params, state, stats = carry

                def loss(params):
                    effective = method.training_weights(weights, params)
                    logits, after = net.apply(effective, stats, images, train=not running)
                    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

                (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
                update, state = transformation.update(gradient, state, params)
                return (optax.apply_updates(params, update), state, after), value

            carry = params, transformation.init(params), stats
            (params, *_), losses = jax.lax.scan(step, carry, length=setting.steps)
            return params, losses  # if the parameters were not returned, XLA would skip the last gradients

        keys = jax.random.split(jax.random.key(1), side_by_side or TASKS)
        params = jax.vmap(lambda key: method.init(key, weights))(keys)
        batch = jax.device_put((images, labels))
        if all_cores:
            spread, batch = devices.over_tasks(lambda batch, params: learn(params, *batch)), devices.replicate(batch)
            params = spread(batch, params)[0]  # a copy that is on the devices of its tasks
            return lambda: jax.block_until_ready(spread(batch, params))

        @jax.jit
        def run(params, images, labels):
            if side_by_side:
                # Tasks have different images.
                batches = jax.vmap(lambda task: jax.numpy.roll(images, task, 0))(jax.numpy.arange(side_by_side))
                return jax.vmap(learn, in_axes=(0, 0, None))(params, batches, labels)
            return jax.lax.map(lambda params: learn(params, images, labels), params)

        return _with_precision(precision, functools.partial(run, params, *batch))

    return prepare


def _with_precision(precision: str, call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that waits for its results and, on a GPU, multiplies float32 matrices in this precision."""
    import jax

    def waiting() -> object:
        with jax.default_matmul_precision(peaks.PRODUCTS[precision][1]):
            return jax.block_until_ready(call())

    return waiting


def selection(name: str) -> Callable[[], Callable[[], object]]:
    """Return the preparation of the masks that the updates of `ours` compute, alone."""

    def prepare() -> Callable[[], object]:
        import jax

        from supsup_jax import masks, methods

        setting = settings()[name]
        masks_of = masks.ErdosRenyi(setting.scale)
        weights, _ = network_of(setting).init(jax.random.key(0))

        def step(scores, _):
            return jax.tree.map(lambda score, mask: score - 1e-6 * mask, scores, masks_of(scores)), None

        run = jax.jit(lambda scores: jax.lax.scan(step, scores, length=TASKS * setting.steps)[0])
        scores = methods.SupSup().init(jax.random.key(1), weights)
        return lambda: [jax.block_until_ready(run(scores))]

    return prepare


def augmentation(name: str) -> Callable[[], Callable[[], object]]:
    """Return the preparation of the random crops of as many batches as `ours` trains, alone."""

    def prepare() -> Callable[[], object]:
        import jax

        from supsup_jax.data import augmentation
        from supsup_jax.data.images import black_frames

        setting = settings()[name]
        if setting.network == "ResNet50":
            frames = jax.device_put(black_frames(setting.batch, round(setting.size * 256 / 224)))
            crop = functools.partial(augmentation.random_resized_crop, size=setting.size)
        else:
            frames = jax.numpy.zeros((setting.batch, setting.size, setting.size, 3), "uint8")
            crop = functools.partial(augmentation.crop_and_flip, padding=4)

        @jax.jit
        def run(frames, key):
            def step(key, _):
                keys = jax.random.split(key, setting.batch + 1)
                return keys[0], crop(frames, keys[1:]).astype("float32").mean((1, 2, 3))

            return jax.lax.scan(step, key, length=TASKS * setting.steps)[1]

        return lambda: jax.block_until_ready(run(frames, jax.random.key(0)))

    return prepare


def pytorch(
    name: str, precision: str = "float32", masked: bool = True, channels_last: bool = True, compiled: bool = False
) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import torch
        from torch.nn import functional
        from torch_resnet import gem_resnet18, resnet50

        setting = settings()[name]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
        torch.backends.cudnn.benchmark = True
        create = {"GEMResNet18": gem_resnet18, "ResNet50": resnet50}[setting.network]
        model = create(setting.classes, setting.scale if masked else None)
        images, labels = setting.data()
        x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).to(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model, x = model.to(device, memory_format=layout), x.contiguous(memory_format=layout).to(device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, 1e-3, weight_decay=1e-4)
        forward = torch.compile(model) if compiled else model

        def steps() -> None:
            for _ in range(TASKS * setting.steps):
                optimizer.zero_grad()
                with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = functional.cross_entropy(forward(x), y)
                loss.backward()
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


def formulations_of(name: str) -> dict[str, Formulation]:
    """Return the formulations of a setting, the most important first."""
    accelerated = peaks.is_accelerated()
    precisions = ("tf32", "float32", "bfloat16") if accelerated else ("float32",)

    def rows(library: str, prepare: Callable[..., Any], suffix: str = "", **options: Any) -> dict[str, Formulation]:
        return {
            f"{library}{f', {precision}' if accelerated else ''}{suffix}": Formulation(
                prepare(name, precision, **options), precision=precision
            )
            for precision in precisions
        }

    formulations = rows("supsup_jax", ours)
    if accelerated:
        # The time of a part may not suffice for all rows, so the comparisons come first.
        formulations |= rows("PyTorch, channels last, compiled", pytorch, compiled=True)
        formulations |= rows("supsup_jax", ours, ", no masks", masked=False)
        formulations |= rows("PyTorch, channels last, compiled", pytorch, ", no masks", masked=False, compiled=True)
    else:
        formulations |= rows("supsup_jax, a device for each core", ours, all_cores=True)
        formulations |= rows("supsup_jax", ours, ", no masks", masked=False)
        formulations |= rows("supsup_jax, a device for each core", ours, ", no masks", masked=False, all_cores=True)
    formulations["supsup_jax, the masks alone"] = Formulation(selection(name), precision="")
    formulations["supsup_jax, random crops alone"] = Formulation(augmentation(name), precision="")
    formulations["supsup_jax, batch norm with running statistics"] = Formulation(
        ours(name, precisions[0], running=True), precision=precisions[0]
    )
    if name == "GEMResNet18":
        for width in WIDTHS if accelerated else (2,):
            formulations[f"supsup_jax, {width} tasks by vmap"] = Formulation(
                ours(name, precisions[0], side_by_side=width), width / TASKS, precision=precisions[0]
            )
    formulations |= rows("PyTorch, channels last", pytorch)
    formulations |= rows("PyTorch, channels last", pytorch, ", no masks", masked=False)
    if not accelerated:
        formulations |= rows("PyTorch, channels first", pytorch, channels_last=False)
    return formulations


def cases() -> list[Case]:
    """Return a case for each network."""
    return [case(name, formulations_of(name)) for name in ("GEMResNet18", "ResNet50")]


def smallest() -> list[Case]:
    """Return two steps of each network on a few small images, in the ways that compile in seconds."""
    first, second = SMALLEST
    ways = {
        "supsup_jax": Formulation(ours(first)),
        "supsup_jax, the masks alone": Formulation(selection(first), precision=""),
        "supsup_jax, random crops alone": Formulation(augmentation(first), precision=""),
        "PyTorch, channels last": Formulation(pytorch(first)),
    }
    large_ways = {
        "supsup_jax, random crops alone": Formulation(augmentation(second), precision=""),
        "PyTorch, channels last, no masks": Formulation(pytorch(second, masked=False)),
    }
    return [case(first, ways), case(second, large_ways)]
