"""Networks as parts of an experiment: frozen dataclasses that check their arguments."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers.tiers import thorough_but
from supsup_jax import UserError, networks
from supsup_jax.system import devices

DENSE = [networks.LeNet, networks.FC1024, networks.BNNet]
IMAGENET = [networks.ResNet18, networks.ResNet50, networks.ResNet101]
BUILT_IN = [*DENSE, networks.GEMResNet18, *IMAGENET]


class Linear(nn.Module):
    features: int = 3

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.features, use_bias=False, name="head")(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class LinearNetwork(networks.Network):
    features: int
    input_shape: tuple[int, ...] = (4, 4, 1)
    initializer: networks.Initializer | str = "signed_constant"

    @property
    def module(self):
        return Linear(self.features)


@pytest.mark.parametrize("network", BUILT_IN)
def test_networks_are_compared_and_hashed_by_their_fields(network):
    net, same = network(features=7), network(7, initializer="signed_constant")
    assert isinstance(net, networks.Network)
    assert net == same and hash(net) == hash(same)
    assert net != network(7, width=0.5) and net != network(7, initializer="kaiming_normal")
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.width = 0.5


def test_fields_of_networks_are_their_arguments():
    shared = ["features", "width", "input_shape", "initializer"]
    further = dict.fromkeys(IMAGENET, ("affine", "dtype", "sync_bn")) | {networks.GEMResNet18: ("affine",)}
    for network in BUILT_IN:
        assert [field.name for field in dataclasses.fields(network)] == [*shared, *further.get(network, [])]


LARGE = (networks.ResNet50, networks.ResNet101)


@pytest.mark.parametrize("network", thorough_but([net for net in BUILT_IN if net not in LARGE], BUILT_IN))
def test_outputs_and_head_match_the_module(network):
    net = network(features=7, width=1 / 16, input_shape=(32, 32, 3))
    weights, _ = jax.eval_shape(net.init, jax.random.key(0))
    assert weights[net.head]["kernel"].shape[-1] == net.num_outputs == 7
    assert net.uses_batch == (network is networks.BNNet)


@pytest.mark.parametrize("network", BUILT_IN)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": 0}, "features 0: must be at least 1"),
        ({"width": -1.0}, "width -1: must be a positive number"),
        ({"width": math.nan}, "width nan: must be a positive number"),
        ({"width": math.inf}, "width inf: makes layers too large"),
        ({"width": 2.0**20}, r"width 1\.04858e\+06: makes layers too large; give less than 1048576"),
        ({"width": 0.0001}, "width 0.0001: leaves a layer without units; give at least 0.0"),
        ({"input_shape": (0, 4, 1)}, r"input_shape \(0, 4, 1\): must be \(height, width, channels\)"),
    ],
)
def test_a_wrong_argument_is_named(network, wrong, message):
    with pytest.raises(UserError, match=message) as refused:
        network(**{"features": 5} | wrong)
    assert isinstance(refused.value, ValueError) and "\n" not in str(refused.value)


@pytest.mark.parametrize("network", BUILT_IN)
def test_the_smallest_width_leaves_one_unit(network):
    least = 1 / min(network.units)
    assert min(network(5, width=least).layer_sizes) == 1
    with pytest.raises(UserError, match=f"without units; give at least {least}"):
        network(5, width=0.99 * least)


def test_for_images_returns_the_network_for_a_different_shape():
    net = networks.LeNet(features=10, width=0.1, initializer="kaiming_normal")
    small = net.for_images((8, 8, 1))
    assert small == networks.LeNet(10, 0.1, (8, 8, 1), networks.kaiming_normal)
    assert small.for_images((8, 8, 1)) is small
    custom = networks.Network(Linear(), input_shape=(4, 4, 1))
    assert custom.for_images((4, 4, 1)) is custom
    with pytest.raises(UserError, match=r"images of shape \(4, 4, 1\), the data has \(8, 8, 1\)"):
        custom.for_images((8, 8, 1))


def test_a_custom_network_is_created_from_a_module():
    net = networks.Network(Linear(), (4, 4, 1), "kaiming_normal", head="head")
    assert isinstance(net, networks.Network) and isinstance(net, networks.CustomNetwork)
    assert net == networks.Network(Linear(3), (4, 4, 1), networks.kaiming_normal, "head")
    assert hash(net) == hash(dataclasses.replace(net)) and net.num_outputs == 3
    assert not (net.uses_batch or net.affine or net.sync_bn)
    with pytest.raises(UserError, match="input_shape"):
        networks.Network(Linear(), ())


def test_a_custom_network_class_with_separate_arguments():
    net = LinearNetwork(features=6).for_images((2, 2, 1))
    assert isinstance(net, networks.Network) and net.num_outputs == 6
    custom = networks.Network(Linear(6), (2, 2, 1))
    for weights in zip(*(jax.tree.leaves(network.init(jax.random.key(3))) for network in (net, custom)), strict=True):
        np.testing.assert_array_equal(*weights)
    with pytest.raises(UserError, match="input_shape"):
        LinearNetwork(6, input_shape=(0,))


@pytest.mark.parametrize("name", networks.INITIALIZERS)
def test_initialisers_by_name(name):
    assert networks.LeNet(5, initializer=name).initializer is getattr(networks, name)


def test_an_unknown_initialiser_is_refused():
    with pytest.raises(UserError, match="initializer normal: there is no such initialiser; give a function, or signed"):
        networks.initializers.initializer_of("normal")


@pytest.mark.parametrize("network", IMAGENET)
def test_types_of_activations_by_name_or_as_a_jax_dtype(network):
    net = network(10, dtype=jnp.bfloat16)
    assert net == network(10, dtype="bfloat16") == network(10, dtype=jnp.dtype("bfloat16"))
    assert net.dtype == "bfloat16" and net.module.dtype == jnp.bfloat16
    for wrong in (jnp.float16, jnp.int32, np.ndarray):
        with pytest.raises(UserError, match="must be float32 or bfloat16"):
            network(10, dtype=wrong)


@pytest.mark.thorough
@pytest.mark.parametrize("sync_bn", [False, True])
def test_batch_norm_statistics_over_devices(sync_bn):
    net = networks.ResNet18(4, width=1 / 64, input_shape=(32, 32, 3), sync_bn=sync_bn)
    weights, stats = net.init(jax.random.key(0))
    shards = jax.random.normal(jax.random.key(1), (2, 3, *net.input_shape)) * jnp.array([1, 5]).reshape(2, 1, 1, 1, 1)

    def mean(shard):
        return net.apply(weights, stats, shard, train=True)[1]["bn1"]["mean"]

    each = jax.jit(jax.vmap(mean, axis_name=devices.AXIS))(shards)
    assert np.allclose(each[0], each[1], rtol=1e-5) == sync_bn
