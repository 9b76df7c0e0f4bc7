"""Runs accept data and task numbers from scikit-learn, PyTorch, JAX and lists."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.sources import refused
from helpers.toys import small_dataset
from supsup_jax import data, networks
from supsup_jax.data.pairs import labels_array
from supsup_jax.data.user_tasks import learn_arguments

torch = pytest.importorskip("torch")

DATASET = small_dataset()
X, Y = DATASET.train
TENSOR = torch.tensor(X).permute(0, 3, 1, 2)  # channels first


class Pairs(torch.utils.data.Dataset):
    """A PyTorch data set with images in the form of `ToTensor`."""

    def __init__(self, images=X, labels=Y):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return torch.tensor(self.images[row]).permute(2, 0, 1) / 255, int(self.labels[row])


def new(**parts):
    training = ss.Training(steps=np.int64(3), batch_size=np.int32(16))
    inputs = data.Inputs.new([4, 4, 1], Y.max() + 1, DATASET.mean, DATASET.std)
    return ss.Run.new(networks.LeNet(np.int64(6), 0.1), inputs=inputs, **{"training": training} | parts)


@pytest.fixture(scope="module")
def run():
    """A run that has learned the same task twice, passed as to `Run.learn` of version 0.1."""
    run = new()
    run.learn((X, Y), 3, (X, Y))
    run.learn((X / 255, Y), steps=3)
    return run


FORMS = {
    "as for scikit-learn": lambda: (X, Y),
    "rows of pixels": lambda: (X.reshape(-1, 16), Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "jax": lambda: (jnp.asarray(X), jnp.asarray(Y)),
    "tensors": lambda: (TENSOR, torch.tensor(Y)),
    "floats that require grad": lambda: ((TENSOR / 255).requires_grad_(), torch.tensor(Y)),
    "a pair": lambda: ([X, Y],),
    "TensorDataset": lambda: (torch.utils.data.TensorDataset(TENSOR, torch.tensor(Y)),),
    "Dataset": lambda: (Pairs(),),
    "DataLoader": lambda: (torch.utils.data.DataLoader(Pairs(), 7),),
    "DataLoader without batches": lambda: (torch.utils.data.DataLoader(Pairs(), None),),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_task_does_not_depend_on_the_form_of_its_data(run, form):
    again = new()
    again.learn(*FORMS[form]())
    is_float = form in ("floats that require grad", "Dataset") or form.startswith("DataLoader")
    if not is_float:
        jax.tree.map(np.testing.assert_array_equal, again.mask(0), run.mask(0))
    assert (again.predict(X, 0).labels == run.predict(X, 0).labels).mean() > 0.95


@pytest.mark.parametrize("kind", [np.array, jnp.int32, torch.tensor, float])
def test_steps_after_a_pair_may_be_a_number_of_any_library(kind):
    data, steps, test = learn_arguments((X, Y), kind(3), None, None)
    assert (steps, test) == (3, None) and len(data) == 2
    data, steps, test = learn_arguments((X, Y), kind(3), (X, Y), None)
    assert (steps, len(test)) == (3, 2)
    refused(lambda: learn_arguments((X, Y), 3, kind(4), None), "steps is given twice")


class Animal(str, enum.Enum):  # noqa: UP042 (a StrEnum converts differently)
    """Labels that are texts and members of an enumeration."""

    CAT = "cat"
    DOG = "dog"


def test_labels_of_unusual_types_keep_their_values():
    animals = ["dog", "cat", "dog"]
    kinds = [[Animal(animal) for animal in animals], np.array([Animal(animal) for animal in animals], object)]
    if hasattr(np.dtypes, "StringDType"):
        kinds.append(np.array(animals, np.dtypes.StringDType()))
    for kind in kinds:
        assert labels_array("labels", kind).tolist() == animals
        assert labels_array("labels", kind).dtype.kind == "U"
    assert labels_array("labels", jnp.asarray([2, 0, 1], jnp.int4)).dtype == np.int32


def test_task_numbers_from_any_library_are_accepted(run):
    images, expected = X[:4], run.predict(X[:4], task=1)
    numbers = [np.int64(1), jnp.int32(1), torch.tensor(1), 1.0, np.float32(1)]
    for task in (*numbers, [1] * 4, torch.ones(4, dtype=int), jnp.ones(4, int), np.ones(4)):
        np.testing.assert_array_equal(run.predict(images, task=task).logits, expected.logits)
    for task in (np.int64(1), jnp.int32(1), torch.tensor(1)):
        jax.tree.map(np.testing.assert_array_equal, run.mask(task), run.mask(1))
        jax.tree.map(np.testing.assert_array_equal, run.model.effective_weights(task), run.weights_for(1))
    refused(lambda: run.predict(images, task="1"), "task '1'", "has type str")
    refused(lambda: run.predict(images, task=0.5), "task has shape () and type float64")


def test_evaluate_accepts_data_in_any_form(run, tmp_path):
    expected = ss.evaluate(run, data=[DATASET.test, DATASET.test]).accuracy
    tested = Pairs(*DATASET.test)
    np.testing.assert_array_equal(ss.evaluate(run, data=[tested, tuple(DATASET.test)]).accuracy, expected)
    for pair in (tuple(DATASET.test), tested):
        assert ss.evaluate(run, tasks=np.int64(1), data=pair).accuracy.tolist() == [expected[1]]
    run = new()
    run.learn(X, Y)
    run.save(tmp_path / "run")
    for folder in (str(tmp_path / "run"), tmp_path / "run"):
        assert ss.evaluate(folder, data=[DATASET.test]).tasks.tolist() == [0]
    assert ss.restore(tmp_path / "run", step=np.int64(0)).num_tasks == 1
    refused(lambda: ss.restore(tmp_path / "run", method=ss.methods.SupSup), "method SupSup", "give an instance")
    refused(lambda: ss.evaluate(run.model), "tasks None", "benchmark.test(dataset, numbers)")


def test_searches_accept_images_from_any_library(run):
    images = np.asarray(run.inputs.normalise(X[:6]))
    expected = ss.infer(run.model, images, ss.OneShot())
    gradient = ss.alpha_gradient(run.model, images, np.full(2, 0.5, np.float32))
    for kind in (torch.tensor, jnp.asarray, lambda values: values.tolist()):
        np.testing.assert_array_equal(ss.infer(run.model, kind(images), ss.OneShot(), np.int64(1)), expected)
        alphas = kind(np.full(2, 0.5, np.float32))
        np.testing.assert_array_equal(ss.alpha_gradient(run.model, kind(images), alphas), gradient)
    assert jax.jit(lambda x: ss.infer(run.model, x, ss.OneShot()))(images).tolist() == expected.tolist()
    refused(lambda: ss.infer(run.model, X, ss.OneShot()), "images of type uint8", "run.infer_task")
    refused(lambda: ss.infer(run.model, images, ss.OneShot), "search OneShot: is a class")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda run: run.learn(X), ("data must be a pair (images, labels)", "not a ndarray")),
        (lambda run: run.learn(X, None), ("data must be a pair",)),
        (lambda run: run.learn((X, Y, Y)), ("data must be a pair", "not a tuple of 3")),
        (lambda run: run.learn(data.load_digits()), ("not a whole Dataset", "give its train or test")),
        (lambda run: run.learn({"images": X}), ("data must be a pair", "not a dict")),
        (lambda run: run.learn("images.npy", Y), ("images 'images.npy'", "has type str; give an array")),
        (lambda run: run.learn(X, "labels"), ("labels 'labels'", "has type str; give an array")),
        (lambda run: run.learn(X, Y, steps="3"), ("steps '3'", "has type str; give an integer")),
        (lambda run: run.learn((X, Y), 3, 4), ("steps is given twice",)),
        (lambda run: run.learn(X, Y[:, None]), ("a number or a text for each of 96 images", "labels[:, 0]")),
        (lambda run: run.learn(X, np.eye(4)[Y]), ("a number or a text for each", "labels.argmax(1)")),
        (lambda run: run.learn([row for row in zip(X, Y, strict=True)]), ("not a list of 96",)),
        (lambda run: run.learn(Pairs(X, np.zeros(0))), ("data is empty",)),
        (lambda run: run.learn(X, (y for y in Y)), ("labels are object", "a number or a text for each")),
        (
            lambda run: run.learn(torch.utils.data.DataLoader(Pairs(), 7, collate_fn=lambda pairs: (X[:7], 3))),
            ("data has batches without one label for each image",),
        ),
        (lambda run: run.learn(X, Y, test=(X, Y + 4)), ("the label 4, which no training image has", "nor 5, 6, 7")),
        (lambda run: run.learn(X.astype(np.float32), Y), ("from 0 to", "divide them by 255")),
        (lambda run: run.learn((X / 255 - 0.3) / 0.3, Y), ("from -1 to", "mean and std normalise them later")),
        (lambda run: run.learn(X.astype(np.int64), Y), ("images are int64", "images.astype('uint8')")),
    ],
)
def test_unusable_data_raise_a_one_line_error(run, wrong, words):
    refused(lambda: wrong(run), *words)
    assert run.num_tasks == 2
