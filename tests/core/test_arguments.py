"""Parts and functions convert arguments of all usual types, or reject them in one line that names the right type."""

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.sources import refused
from supsup_jax import arguments, data, inference, masks, methods, networks, optimizers, scenarios

torch = pytest.importorskip("torch")

DIGITS = data.Digits()
INTEGERS = [np.int64, np.uint8, jnp.int32, torch.tensor, np.float64, float]
NUMBERS = [np.float32, jnp.float32, torch.tensor, Decimal]
SEQUENCES = [list, np.array, jnp.array, torch.tensor, lambda items: (item for item in items)]


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_any_library_are_converted(kind):
    four = kind(4)
    training = ss.Training(steps=four, epochs=four, batch_size=four, warmup_epochs=four)
    assert training == ss.Training(steps=4, epochs=4, batch_size=4, warmup_epochs=4)
    family = data.Split(DIGITS, classes_per_task=four, num_tasks=four)
    parts = [training, family, networks.LeNet(four), ss.Binary(base=four), scenarios.GG(four)]
    parts += [inference.superfluous(four), data.ImageNet(image_size=four), data.Rotated(DIGITS, four)]
    for part in parts:
        for field in dataclasses.fields(part):
            assert type(getattr(part, field.name)) not in (kind, type(four)) or kind is float
    assert hash(ss.Binary(base=four)) == hash(ss.Binary(base=4))


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_library_are_converted(kind):
    half = kind(0.5)
    for optimizer in (optimizers.Adam(half), optimizers.SGD(momentum=half), ss.Training(weights_learning_rate=half)):
        assert 0.5 in [value for value in vars(optimizer).values() if type(value) is float]
    assert networks.LeNet(10, width=half).layer_sizes == (150, 50)
    assert masks.TopK(half) == masks.TopK(0.5) and type(masks.ErdosRenyi(half).scale) is float


@pytest.mark.parametrize("kind", SEQUENCES)
def test_shapes_and_sequences_of_any_library_are_converted(kind):
    shape = kind([8, 8, 1])
    assert networks.LeNet(10, input_shape=shape).input_shape == (8, 8, 1)
    experiment = ss.Experiment("x", data.Permuted(DIGITS), networks.LeNet(10), evaluate_at=kind([1, 2]))
    assert experiment.evaluate_at == (1, 2) and type(experiment.evaluate_at[0]) is int
    inputs = data.Inputs.new(kind([8, 8, 3]), np.arange(7).max() + 1, kind([0.5, 0.5, 0.5]), 0.25)
    assert inputs == data.Inputs((8, 8, 3), (0.5,) * 3, (0.25,) * 3, 7)


def test_strings_paths_and_truth_values_are_converted():
    experiment = ss.Experiment(Path("mine/run"), data.Permuted(DIGITS), networks.LeNet(10))
    assert experiment.name == "mine/run"
    assert data.ImageFolder(path=Path("flowers")).path == data.ImageFolder("flowers").path
    family = data.Split(DIGITS, order=np.str_("drawn"), relabel=np.bool_(False))
    assert type(family.order) is str and family.relabel is False
    assert data.ImageFolder(channels=np.int64(1)).channels == 1
    assert methods.BatchE(random_weights=torch.tensor(True)).random_weights is True
    assert networks.ResNet18(10, dtype=jnp.bfloat16).dtype == "bfloat16"


def test_fields_of_custom_parts_are_converted():
    @dataclass(frozen=True)
    class Shifted(data.TaskFamily):
        step: int = 1
        by: float | None = None
        unknown: "NotImported" = None
        offsets: tuple = ()

        def __post_init__(self):
            assert type(self.num_tasks) is int

        def bind(self, dataset):
            raise NotImplementedError

    shifted = Shifted(DIGITS, np.int64(2), num_tasks=np.int64(3), offsets=[1, 2])
    assert (shifted.num_tasks, shifted.step, shifted.offsets) == (3, 2, (1, 2))

    @dataclass(frozen=True)
    class Scaled(optimizers.SGD):
        factor: float = 1.0
        sizes: tuple[int, ...] = ()

    assert type(Scaled(factor=np.float32(2), sizes=[np.int64(1)]).sizes[0]) is int
    refused(lambda: Scaled(factor="2"), "factor '2'", "has type str; give a number")


LENET = networks.LeNet(10)
PERMUTED = data.Permuted(DIGITS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ss.Training(steps="20"), ("steps '20'", "has type str; give an integer")),
        (lambda: ss.Training(steps=2.5), ("steps 2.5", "has type float; give an integer")),
        (lambda: ss.Training(steps=True), ("steps True", "has type bool")),
        (lambda: ss.Training(steps=np.array([20, 30])), ("steps of shape (2,)", "has type numpy.ndarray")),
        (lambda: ss.Training(optimizer=optimizers.Adam), ("optimizer Adam: is a class", "such as Adam(...)")),
        (lambda: ss.Training(optimizer="Adam"), ("optimizer 'Adam'", "such as optimizers.RMSprop()")),
        (lambda: ss.Training(schedule=["cosine"]), ("schedule ['cosine']", "has type list; give constant or cosine")),
        (lambda: optimizers.SGD("0.1"), ("learning_rate '0.1'", "has type str; give a number")),
        (lambda: optimizers.SGD(1j), ("learning_rate 1j", "has type complex")),
        (lambda: ss.Experiment("x", PERMUTED, networks.LeNet), ("network LeNet: is a class", "LeNet(...)")),
        (lambda: ss.Experiment("x", PERMUTED, "LeNet"), ("network 'LeNet'", "such as networks.LeNet(features=10)")),
        (lambda: ss.Experiment("x", DIGITS, LENET), ("tasks Digits()", "such as data.Permuted(data.MNIST())")),
        (lambda: ss.Experiment("x", PERMUTED, LENET, "SupSup"), ("method 'SupSup'", "methods.SupSup()")),
        (lambda: ss.Experiment("x", PERMUTED, LENET, scenario="GG"), ("scenario 'GG'", "scenarios.GG()")),
        (lambda: ss.Experiment("x", PERMUTED, LENET, seed="1"), ("seed '1'", "give an integer")),
        (lambda: ss.Experiment(3, PERMUTED, LENET), ("name 3", "give a string")),
        (lambda: ss.Experiment("x", PERMUTED, LENET, evaluate_at="10"), ("evaluate_at '10'", "give a sequence")),
        (lambda: data.Permuted(data.Digits), ("source Digits: is a class",)),
        (lambda: data.Permuted("mnist"), ("source 'mnist'", "such as data.MNIST()")),
        (lambda: networks.Network(networks.LeNet, (8, 8, 1)), ("module LeNet: is a class", "LeNet(...)")),
        (
            lambda: networks.Network("LeNet", (8, 8, 1)),
            ("module 'LeNet'", "give an instance of Module"),
        ),
        (lambda: networks.LeNet(10, input_shape="8x8"), ("input_shape '8x8'", "give a sequence")),
        (lambda: ss.OneShot("entropy"), ("objective 'entropy'", "give a function")),
        (lambda: ss.OneShot(ss.superfluous), ("objective superfluous", "superfluous(...)")),
        (lambda: methods.SupSup(masks.ErdosRenyi), ("mask ErdosRenyi", "ErdosRenyi(...)")),
        (lambda: scenarios.GNu("one_shot"), ("search 'one_shot'", "such as OneShot()")),
        (lambda: data.NPZ(3), ("path 3", "give a string")),
        (lambda: data.Inputs.new((8, 8, 1), "3"), ("num_classes '3'", "give an integer")),
        (lambda: data.Inputs.new(784, 3), ("images have shape (784,)", "height, width, channels")),
        (lambda: ss.Model.init(networks.LeNet, methods.SupSup(), 0), ("net LeNet: is a class",)),
        (lambda: ss.Model.init(LENET, methods.SupSup(), 0), ("key 0", "such as jax.random.key(1)")),
        (lambda: ss.Run.new(LENET, inputs=(8, 8, 1)), ("inputs (8, 8, 1)", "give data.Inputs.new(")),
        (lambda: ss.Run.new(LENET, steps=3, inputs=None), ("there is no argument steps", "training=Training(")),
        (lambda: ss.Run.new(LENET, "SupSup", inputs=None), ("method 'SupSup'", "methods.SupSup()")),
        (lambda: ss.evaluate(3), ("run 3", "give a Run, its folder, or a Model")),
        (lambda: ss.evaluate("nowhere"), ("nowhere does not contain a run",)),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_in_one_line(call, words):
    refused(call, *words)


class Meta:
    """An array that cannot be read, like traced arrays and tensors on PyTorch's meta device."""

    shape = (2,)

    def __array__(self, *_, **__):
        raise RuntimeError("no\ndata")


def test_arrays_of_any_library_are_converted_to_numpy():
    x = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    tensor = torch.tensor(x, requires_grad=True)
    kinds = [x.tolist(), tensor, tensor.bfloat16(), tensor.half(), tensor.to_sparse(), [tensor[0], tensor[1]]]
    kinds += [jnp.asarray(x), jnp.asarray(x, jnp.bfloat16), list(jnp.asarray(x)), np.ma.masked_array(x)]
    for kind in kinds:
        converted = arguments.array("images", kind)
        assert isinstance(converted, np.ndarray) and converted.dtype.kind == "f"
        np.testing.assert_array_equal(converted, x)
    refused(lambda: arguments.array("images", Meta()), "images of shape (2,)", "an array (no data)")
    refused(lambda: arguments.array("images", "x"), "images 'x'", "has type str; give an array")
    refused(lambda: arguments.array("images", np.ma.masked_array(x, x > 0)), "have masked values")
    refused(lambda: arguments.array("images", [[1], [1, 2]]), "have different shapes")
