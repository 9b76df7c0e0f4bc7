"""Models of random and of fitting masks among which tests search by a shortlist."""

import jax
import jax.numpy as jnp

import supsup_jax as ss
from helpers.toys import model_of, random_masks
from supsup_jax import bank as banks
from supsup_jax import inference, networks

NET = networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1))
TASKS = 61
IMAGES = jax.random.normal(jax.random.key(2), (4, 5, 5, 1))
FEW = ss.Shortlist(shortlist=3, share=1 / 4, margin=1.0)
OBJECTIVES = {"H": ss.entropy, "G": ss.superfluous(real=2)}


def model_with(masks) -> ss.Model:
    weights, _ = NET.init(jax.random.key(0))
    return model_of(NET, weights, banks.pack(masks), TASKS)


def unlearned() -> ss.Model:
    """Return a model of random masks; no mask fits an image clearly better than the others."""
    return model_with(random_masks(NET.init(jax.random.key(0))[0], TASKS))


def learned(objective=ss.entropy) -> ss.Model:
    """Return a model in which tasks 5, 20, 35 and 50 fit one image each, clearly better than all others."""
    model = unlearned()
    alphas = jnp.full(TASKS, 1 / TASKS)
    masks = [model.adapter(task) for task in range(TASKS)]
    for image, task in zip(IMAGES, (5, 20, 35, 50), strict=True):
        slope = gradient_of(model, image[None], alphas, objective)
        masks[task] = jax.tree.map(lambda leaf: (leaf < 0).astype(jnp.float32), slope)
    return model_with(jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks))


def gradient_of(model, images, alphas, objective):
    superposed = banks.superpose(model.bank, alphas[None])
    (slope,) = [inference.searches.gradients_at(model, images[None], superposed, objective)]
    return jax.tree.map(lambda leaf: leaf[0], slope)
