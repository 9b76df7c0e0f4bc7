"""Files of trained weights, and how they fit networks."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import serialization
from flax.traverse_util import flatten_dict

from helpers.data import assert_one_line
from helpers.toys import conv_net
from supsup_jax import UserError, networks
from supsup_jax.networks import Network, load_weights, save_weights

KEY, OTHER = jax.random.key(0), jax.random.key(1)
NET = conv_net()


@pytest.fixture(scope="module")
def trained():
    """Return weights and statistics as after training."""
    weights, stats = NET.init(OTHER)
    return jax.device_get((weights, jax.tree.map(lambda leaf: leaf + 0.5, stats)))


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def write_orbax(folder, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def write_safetensors(path, tree, separator):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(tree, sep=separator).items()}, path)


WRITERS = {
    "a.msgpack": lambda path, tree: path.write_bytes(serialization.to_bytes(tree)),
    "a.safetensors": lambda path, tree: write_safetensors(path, tree, "/"),
    "dotted.safetensors": lambda path, tree: write_safetensors(path, tree, "."),
    "orbax": write_orbax,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read(name, trained, tmp_path):
    weights, stats = trained
    WRITERS[name](tmp_path / name, {"params": weights, "batch_stats": stats})
    assert_equal(load_weights(tmp_path / name, NET, KEY), trained)


@pytest.mark.parametrize("name", ["a.msgpack", "a.safetensors"])
def test_written_files_are_read(name, trained, tmp_path):
    save_weights(tmp_path / name, *trained)
    assert_equal(load_weights(tmp_path / name, NET, KEY), trained)


def test_a_step_of_an_orbax_manager_is_read(trained, tmp_path):
    with ocp.CheckpointManager(tmp_path.absolute()) as manager:
        manager.save(3, args=ocp.args.StandardSave(trained[0]))
    weights, _ = load_weights(tmp_path / "3", NET, KEY)
    assert_equal(weights, trained[0])


def test_weights_alone_have_initial_statistics(trained):
    weights, stats = load_weights(trained[0], NET, KEY)
    assert_equal((weights, stats), (trained[0], NET.init_stats()))


def test_weights_of_half_precision_are_converted(trained, tmp_path):
    import ml_dtypes

    half = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), trained[0])
    for name in ("a.msgpack", "a.safetensors"):
        WRITERS[name](tmp_path / name, half)
        weights, _ = load_weights(tmp_path / name, NET, KEY)
        for leaf, expected in zip(jax.tree.leaves(weights), jax.tree.leaves(half), strict=True):
            assert leaf.dtype == np.float32
            np.testing.assert_array_equal(leaf, expected.astype(np.float32))


@pytest.mark.parametrize("trained_outputs", [4, 9, None], ids=["the same", "other classes", "no head"])
def test_a_last_layer_that_does_not_fit_is_drawn(trained_outputs):
    net = networks.LeNet(4, width=0.1, input_shape=(4, 4, 1))
    weights, _ = networks.LeNet(trained_outputs or 4, width=0.1, input_shape=(4, 4, 1)).init(OTHER)
    if trained_outputs is None:
        weights = {name: layer for name, layer in weights.items() if name != "dense2"}
    loaded, _ = load_weights(weights, net, KEY)
    for name in ("dense0", "dense1"):
        assert_equal(loaded[name], weights[name])
    assert_equal(loaded["dense2"], (weights if trained_outputs == 4 else net.init(KEY)[0])["dense2"])


class Biased(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(4, name="head")(nn.Dense(3)(x.reshape(len(x), -1)))


def changed(tree, path, leaf):
    """Return a copy of a tree with another leaf, or without it."""
    flat = dict(flatten_dict(tree, sep="/"))
    flat[path] = leaf
    return {name: value for name, value in flat.items() if value is not None}


@pytest.mark.parametrize(
    ("path", "leaf", "words"),
    [
        ("Dense_0/kernel", None, "has no Dense_0/kernel; the network requires it, with shape (16, 3)"),
        ("Dense_0/kernel", np.ones((16, 5)), "Dense_0/kernel has shape (16, 5); the network requires (16, 3)"),
        ("Dense_1/kernel", np.ones((5, 2)), "has Dense_1/kernel with shape (5, 2); the network has no such weights"),
        ("Dense_0/bias", np.ones(3, int), "Dense_0/bias has type int64; the network requires floats"),
        ("Dense_0/bias", np.array([0, np.nan, 1]), "Dense_0/bias has values that are not finite"),
        ("batch_stats/mean", np.ones(3), "has batch_stats/mean with shape (3,)"),
        ("Dense_0/bias", "text", "has a leaf that is not an array (Dense_0/bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(path, leaf, words):
    net = Network(Biased(), input_shape=(4, 4, 1), head="head")
    weights, _ = jax.device_get(net.init(OTHER))
    given = changed(weights, path, leaf)
    if path.startswith("batch_stats"):
        given = {name if name == path else f"params/{name}": value for name, value in given.items()}
    with pytest.raises(UserError) as error:
        load_weights(given, net, KEY)
    assert_one_line(error, "base_weights of type dict: ", words)


def test_a_network_without_a_named_last_layer_says_how_to_name_it():
    net = Network(Biased(), input_shape=(4, 4, 1))
    weights, _ = jax.device_get(net.init(OTHER))
    with pytest.raises(UserError, match=r"head/kernel has shape \(3, 9\).*name its last layer with head="):
        load_weights(changed(weights, "head/kernel", np.ones((3, 9))), net, KEY)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.msgpack", None, "does not exist; give a .safetensors file"),
        ("a.pt", b"", "may be a pickled file"),
        ("a.msgpack", b"\xc1", "cannot be read"),
        ("a.msgpack", serialization.msgpack_serialize(1.0), "cannot be read .*does not contain a dictionary"),
        ("a.safetensors", b"\xff" * 16, "cannot be read"),
        ("empty.msgpack", serialization.to_bytes({}), "has no arrays"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_weights(tmp_path / name, NET, KEY)
    assert_one_line(error, f"base_weights {tmp_path / name}: ")


def test_folders_that_are_not_one_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        load_weights(tmp_path, NET, KEY)
    assert_one_line(error, "contains 0 Orbax checkpoints; give the folder of one")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError) as error:
        load_weights(tmp_path, NET, KEY)
    assert_one_line(error, "is a run", "python -m supsup_jax export-weights")


def test_rotated_weights_are_written_as_their_product(tmp_path):
    weights, _ = networks.LeNet(4, width=0.1, input_shape=(4, 4, 1)).init(KEY)
    kernel = weights["dense0"]["kernel"]
    rotation = np.roll(np.eye(16, dtype=np.float32), 1, axis=0)
    rotated = weights | {"dense0": {"kernel": networks.Rotated(rotation, kernel)}}
    save_weights(tmp_path / "a.msgpack", rotated)
    loaded, _ = load_weights(tmp_path / "a.msgpack", networks.LeNet(4, width=0.1, input_shape=(4, 4, 1)), KEY)
    np.testing.assert_array_equal(loaded["dense0"]["kernel"], np.roll(kernel, 1, axis=0))
