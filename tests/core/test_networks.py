import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from helpers.tiers import thorough_but
from helpers.toys import conv_net, kernel_path, node
from supsup_jax import masks, methods, networks
from supsup_jax.networks import layers


def size(weights):
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


@pytest.mark.parametrize(
    ("net", "shapes"),
    [
        (networks.LeNet(features=100), [(784, 300), (300, 100), (100, 100)]),
        (networks.LeNet(features=20, width=0.1), [(784, 30), (30, 10), (10, 20)]),
        (networks.FC1024(features=500), [(784, 1024), (1024, 1024), (1024, 500)]),
        (networks.LeNet(features=10, input_shape=(8, 8, 1)), [(64, 300), (300, 100), (100, 10)]),
    ],
)
def test_networks_have_the_papers_layers_without_biases(net, shapes):
    weights, stats = net.init(jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(weights)] == shapes
    assert stats == {}
    logits, _ = net.apply(weights, stats, jnp.ones((2, *net.input_shape)), train=False)
    assert logits.shape == (2, shapes[-1][-1])


def test_parameter_counts():
    for net, count in (
        (networks.LeNet(100), 275_200),
        (networks.LeNet(500), 315_200),
        (networks.FC1024(500), 2_363_392),
        (networks.GEMResNet18(5), 1_090_940),
    ):
        assert size(jax.eval_shape(net.init, jax.random.key(0))[0]) == count


@pytest.mark.parametrize("shape", [(784, 300), (3, 3, 20, 40)])
def test_initialisers_have_the_spread_of_their_fans(shape):
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    key = jax.random.key(0)
    constant = np.asarray(networks.signed_constant(key, shape, jnp.float32))
    np.testing.assert_allclose(np.abs(constant), math.sqrt(2 / fan_in), rtol=1e-6)
    assert abs((constant > 0).mean() - 0.5) < 0.02
    np.testing.assert_allclose(
        np.abs(networks.xavier_constant(key, shape, jnp.float32)), math.sqrt(1 / fan_in), rtol=1e-6
    )
    unsigned = networks.unsigned_constant(key, shape, jnp.float32)
    assert unsigned.shape == shape
    np.testing.assert_allclose(unsigned, math.sqrt(2 / fan_in), rtol=1e-6)
    for name, bound in (
        ("pytorch_default", math.sqrt(1 / fan_in)),
        ("kaiming_uniform", math.sqrt(6 / fan_in)),
        ("glorot_uniform", math.sqrt(6 / (fan_in + fan_out))),
    ):
        uniform = np.asarray(getattr(networks, name)(key, shape, jnp.float32))
        assert 0.99 * bound < np.abs(uniform).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(uniform.std(), bound / math.sqrt(3), rtol=0.05)
    normal = np.asarray(networks.kaiming_normal(key, shape, jnp.float32))
    np.testing.assert_allclose(normal.std(), math.sqrt(2 / fan_in), rtol=0.05)
    xavier = np.asarray(networks.xavier_normal(key, shape, jnp.float32))
    np.testing.assert_allclose(xavier.std(), math.sqrt(2 / (fan_in + fan_out)), rtol=0.05)


def test_initialisers_agree_with_the_original(golden):
    for name, facts in golden("inits.json").items():
        out, fan_in, height, width = (int(number) for number in name.strip("()").split(","))
        shape = (height, width, fan_in, out) if height > 1 else (fan_in, out)
        key = jax.random.key(0)
        constant = networks.signed_constant(key, shape, jnp.float32)
        np.testing.assert_allclose(np.abs(constant), facts["signed_constant_abs"], rtol=1e-6)
        scores = np.abs(networks.pytorch_default(key, shape, jnp.float32))
        assert scores.max() <= facts["score_init_bound_1_over_sqrt_fan_in"] * (1 + 1e-6)
        np.testing.assert_allclose(scores.max(), facts["score_init_observed_max"], rtol=0.05)


def test_a_weight_depends_only_on_the_seed_and_its_path():
    narrow, _ = networks.LeNet(features=10).init(jax.random.key(1))
    wide, _ = networks.LeNet(features=500).init(jax.random.key(1))
    other, _ = networks.LeNet(features=10).init(jax.random.key(2))
    np.testing.assert_array_equal(narrow["dense0"]["kernel"], wide["dense0"]["kernel"])
    assert (narrow["dense0"]["kernel"] != other["dense0"]["kernel"]).any()
    assert (narrow["dense0"]["kernel"][:100, :100] != narrow["dense1"]["kernel"][:100]).any()


def test_statistics_change_in_training_but_not_in_evaluation():
    net = conv_net()
    weights, stats = net.init(jax.random.key(0))
    np.testing.assert_array_equal(stats["BatchNorm_0"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["BatchNorm_0"]["var"], np.ones(3))
    images = jax.random.normal(jax.random.key(1), (8, 5, 5, 1)) + 3
    _, trained = net.apply(weights, stats, images, train=True)
    assert (trained["BatchNorm_0"]["mean"] != 0).all()
    _, evaluated = net.apply(weights, trained, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, trained)


def test_a_rotated_kernel_has_the_values_and_gradients_of_the_product():
    net = conv_net()
    weights, stats = net.init(jax.random.key(0))
    kernel = weights["Dense_0"]["kernel"]
    rotation = jax.random.orthogonal(jax.random.key(1), len(kernel))
    images = jax.random.normal(jax.random.key(2), (3, 5, 5, 1))

    def run(kernel, rotated):
        leaf = networks.Rotated(rotation, kernel) if rotated else rotation @ kernel
        logits, _ = net.apply(weights | {"Dense_0": {"kernel": leaf}}, stats, images, train=True)
        return (logits**2).sum()

    for actual, expected in zip(*(jax.value_and_grad(run)(kernel, rotated) for rotated in (True, False)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_rotated_kernel_of_a_different_layer_type_is_refused():
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x @ self.param("kernel", nn.initializers.ones, (4, 3))

    net = networks.Network(Other(), input_shape=(4,))
    rotated = networks.Rotated(jnp.eye(4), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"only layers of the class flax\.linen\.Dense"):
        net.apply({"kernel": rotated}, {}, jnp.ones((1, 4)), train=False)


def test_batch_norm_of_bnnet_uses_the_batch_in_training_and_testing():
    net = networks.BNNet(10, width=0.02)
    weights, stats = net.init(jax.random.key(0))
    assert stats == {}
    assert sorted(weights) == ["dense0", "dense1", "dense2", "gain0", "gain1"]
    images = jax.random.normal(jax.random.key(1), (8, 28, 28, 1))
    logits = [net.apply(weights, stats, batch, train)[0] for batch in (images, images[:4]) for train in (True, False)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert abs(logits[0][:4] - logits[2]).max() > 1e-3


def from_torch(arrays, prefix, like, suffix):
    """Return the kernels of GEMResNet18 from arrays under the original's names."""

    def leaf(path, shape):
        names = [entry.key for entry in path]
        (name,) = (
            key.removeprefix(prefix).removesuffix(suffix)
            for key in arrays
            if key.startswith(prefix)
            and key.endswith(suffix)
            and kernel_path(key.removeprefix(prefix).removesuffix(suffix)) == tuple(names)
        )
        return jnp.asarray(arrays[prefix + name + suffix].transpose(2, 3, 1, 0).reshape(shape.shape))

    return jax.tree_util.tree_map_with_path(leaf, like)


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_gemresnet18_computes_the_same_as_the_original(golden, masked):
    arrays = golden("gemresnet18_mask.npz" if masked else "gemresnet18.npz")
    net = networks.GEMResNet18(5, width=0.25)
    method = methods.SupSup(masks.ErdosRenyi(32.0)) if masked else methods.UpperBound()
    fresh, stats = net.init(jax.random.key(0))
    weights = from_torch(arrays, "param:", fresh, ".weight")
    params = from_torch(arrays, "param:", fresh, ".scores.1") if masked else weights
    images, labels = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1)), jnp.asarray(arrays["labels"], jnp.int32)

    def loss(params):
        logits, updated = net.apply(method.training_weights(weights, params), stats, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, updated)

    (value, (logits, updated)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, arrays["ce"], rtol=1e-5)
    np.testing.assert_allclose(logits, arrays["logits_train"], atol=1e-5)
    for key, expected in arrays.items():
        if key.startswith("stat:"):
            *layer, _, _, which = key.removeprefix("stat:").split(".")
            found = node(updated, kernel_path(".".join(layer))[:-1])[which.removeprefix("running_")]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=key)
        if key.startswith("grad:"):
            name = key.removeprefix("grad:").removesuffix(".scores.1" if masked else ".weight")
            expected = expected.transpose(2, 3, 1, 0)
            found = node(gradient, kernel_path(name)).reshape(expected.shape)
            np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=key)
    logits, unchanged = net.apply(method.training_weights(weights, params), updated, images, train=False)
    np.testing.assert_allclose(logits, arrays["logits_eval"], atol=1e-5)
    assert unchanged is updated


def test_batch_norm_by_hand():
    norm = networks.Network(Normed(layers.BatchNorm(affine=True)), input_shape=(1, 1, 1))
    weights, stats = norm.init(jax.random.key(0))
    np.testing.assert_array_equal(weights["norm"]["scale"], [1.0])
    np.testing.assert_array_equal(weights["norm"]["bias"], [0.0])
    weights = {"norm": {"scale": jnp.array([2.0]), "bias": jnp.array([5.0])}}
    out, stats = norm.apply(weights, stats, jnp.array([1.0, 2.0, 6.0]).reshape(3, 1, 1, 1), train=True)
    # Mean 3, variance 14 / 3; unbiased 7.
    np.testing.assert_allclose(out[:, 0], 5 + 2 * np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(stats["norm"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(stats["norm"]["var"], [0.9 + 0.7], rtol=1e-6)
    out, _ = norm.apply(weights, stats, jnp.full((2, 1, 1, 1), 1.3), train=False)
    np.testing.assert_allclose(out[:, 0], [5 + 2 / np.sqrt(1.6 + 1e-5)] * 2, rtol=1e-5)


class Normed(nn.Module):
    norm: nn.Module

    @nn.compact
    def __call__(self, x, train):
        return self.norm(x, train).reshape(len(x), -1)


WINDOWS, STRIDES = [(1, 1), (3, 3), (3, 1)], [(1, 1), (2, 2), (1, 2)]
PADDINGS = [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 1)), "SAME"]


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    thorough_but(
        [((3, 3), (1, 1), PADDINGS[2]), ((3, 3), (2, 2), PADDINGS[1]), ((1, 1), (2, 2), "SAME")],
        itertools.product(WINDOWS, STRIDES, PADDINGS),
    ),
)
def test_convolutions_equal_xlas_on_every_backend(window, strides, padding, monkeypatch):
    images = jax.random.normal(jax.random.key(0), (7, 7, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (*window, 3, 5))
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    expected, backward = jax.vjp(
        lambda *operands: jax.lax.conv_general_dilated(*operands, strides, padding, **how), images, kernel
    )
    cotangent = jax.random.normal(jax.random.key(2), expected.shape)
    # On a CPU, one image at a time, a few at a time, and all at once.
    for accelerator, slice_bytes in [(False, 1), (False, 25000), (False, 2**20), (True, 1)]:
        monkeypatch.setattr(layers.backend, "is_accelerator", lambda accelerator=accelerator: accelerator)
        monkeypatch.setattr(layers.backend, "slice_bytes", lambda slice_bytes=slice_bytes: slice_bytes)
        found, pullback = jax.vjp(
            lambda *operands: layers.conv_general_dilated(*operands, strides, padding, **how), images, kernel
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
        for actual, derivative in zip(pullback(cotangent), backward(cotangent), strict=True):
            np.testing.assert_allclose(actual, derivative, atol=1e-4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_windows_larger_than_padded_images_have_no_outputs(strides):
    images, kernel = jnp.ones((2, 2, 3, 1)), jnp.ones((5, 3, 1, 4))
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def total(*operands):
        outputs = layers.conv_general_dilated(*operands, strides, ((1, 0), (1, 1)), **how)
        assert outputs.shape[:2] == (2, 0)
        return outputs.sum()

    for gradient in jax.grad(total, (0, 1))(images, kernel):
        np.testing.assert_array_equal(gradient, 0)


def test_grouped_convolutions_are_computed_by_xla():
    layer = nn.Conv(4, (3, 3), feature_group_count=2, conv_general_dilated=layers.conv_general_dilated)
    usual = nn.Conv(4, (3, 3), feature_group_count=2)
    images = jax.random.normal(jax.random.key(0), (1, 5, 5, 2))
    variables = usual.init(jax.random.key(1), images)
    np.testing.assert_array_equal(layer.apply(variables, images), usual.apply(variables, images))
