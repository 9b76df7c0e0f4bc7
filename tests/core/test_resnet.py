import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.toys import node
from supsup_jax import masks, networks
from supsup_jax.networks import layers
from supsup_jax.networks.resnet import Bottleneck, ResNet
from supsup_jax.system import backend


def our_path(name):
    """Return the path of a layer's kernel in our weights, given its name in the original."""
    name = re.sub(r"layer(\d)\.(\d+)", r"layer\1_\2", name.removesuffix(".weight"))
    return (*name.replace("downsample.0", "shortcut_conv").replace("fc", "linear").split("."), "kernel")


@pytest.fixture(scope="module")
def resnet50():
    """Return the shapes of the weights and statistics."""
    return jax.eval_shape(networks.ResNet50(10).init, jax.random.key(0))


def test_resnet50_has_the_layers_of_the_original(golden, resnet50):
    weights, stats = resnet50
    known = golden("resnet50_params.json")
    for name, (outputs, inputs, *window) in known["StandardConv"]:
        shape = (inputs, outputs) if name == "fc.weight" else (*window, inputs, outputs)
        assert node(weights, our_path(name)).shape == shape
    assert len(jax.tree.leaves(weights)) == len(known["StandardConv"])
    assert len(jax.tree.leaves(stats)) == sum("running" in name for name, _ in known["buffers"])


def test_parameter_counts(resnet50):
    def count(weights):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(weights))

    assert count(resnet50[0]) == 23_475_392
    # torchvision's counts, for 1,000 classes, include the last layer's biases: 11,689,512 and 44,549,160.
    for net, expected in (
        (networks.ResNet18(1000, affine=True), 11_689_512 - 1000),
        (networks.ResNet101(1000, affine=True), 44_549_160 - 1000),
    ):
        assert count(jax.eval_shape(net.init, jax.random.key(0))[0]) == expected


@pytest.mark.parametrize(("scale", "percent"), [(4, 0.87), (8, 1.72), (16, 3.39)])
def test_masks_keep_the_papers_share_of_resnet50(resnet50, scale, percent):
    weights = resnet50[0]
    kept = jax.tree.map(
        lambda leaf, density: masks.num_kept(leaf.size, density), weights, masks.erdos_renyi(weights, scale)
    )
    share = sum(jax.tree.leaves(kept)) / sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert round(100 * share, 2) == percent


@pytest.mark.parametrize("size", [7, 8])
def test_max_pooling_equals_xlas_on_every_backend(size, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, size, size + 2, 3))
    shifted, gradient = jax.value_and_grad(lambda x: jnp.square(layers.max_pool(x)).sum())(x)
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    expected, its_gradient = jax.value_and_grad(lambda x: jnp.square(layers.max_pool(x)).sum())(x)
    np.testing.assert_allclose(shifted, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, its_gradient, rtol=1e-6)


@pytest.mark.thorough
def test_bfloat16_activations_leave_weights_stats_and_logits_float32():
    size = (16, 16, 3)
    nets = [
        networks.Network(ResNet((1, 1), 4, 4, Bottleneck, layers.BatchNorm, large_images=True, dtype=dtype), size)
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    weights, stats = nets[0].init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *size))
    (exact, _), (logits, after) = (jax.jit(net.apply, static_argnums=3)(weights, stats, images, True) for net in nets)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, after))} == {jnp.dtype("float32")}
    assert 0 < np.abs(logits - exact).max() < 0.2 * np.abs(exact).max()
