"""Training images a second: GEMResNet18, masks of the 32-fold Erdős–Rényi densities, Adam, batches of 128 in memory.

Command: python benchmarks/resnet.py   (rows of PyTorch need `pip install torch`; without it they are left out)
"""

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
        from torch.nn import functional
        from torch_resnet import gem_resnet18

        model = gem_resnet18(5, SCALE if masked else None)
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
