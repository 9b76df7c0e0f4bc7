"""A trained run as something to work with: which task is this, which class, what is the mask, learn one more.

run = supsup_jax.restore("runs/quickstart/seed=1")
run.predict(images).labels
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from supsup_jax import methods, registry
from supsup_jax.components import stored
from supsup_jax.data import Dataset, Inputs
from supsup_jax.data.own import UserTasks, own_dataset
from supsup_jax.data.tasks import Part
from supsup_jax.discovery import Learner
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment, Parts
from supsup_jax.inference import Exhaustive, Objective, OneShot, Search, entropy, maximum, superfluous
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import Adapter, Bank, Method
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.runs import exporting, prediction, records, storage
from supsup_jax.runs.checkpoints import Checkpoints, Chunk
from supsup_jax.runs.identity import check_weights, describe
from supsup_jax.runs.learned import DiscoveredTasks, LearnedTasks
from supsup_jax.runs.prediction import InferredTasks, Prediction, classes_of, in_batches, predicted
from supsup_jax.runs.records import Record, TaskResult
from supsup_jax.scenarios import GG, programs
from supsup_jax.system import atomic
from supsup_jax.training import not_finite, task_key, weights_key

# The names of searches in settings and arguments, and their classes.
_SEARCHES = {"one_shot": "OneShot", "binary": "Binary", "exhaustive": "Exhaustive"}


class Run:
    """Tasks learned in one network. `restore` gives a run from disk, and `SupSup` one that has learned nothing yet.

    Tasks are numbered from 0 in the order in which they were learned, or discovered.

    Images are uint8 of 0 to 255, or floats of 0 to 1, `(images, height, width, channels)`, as the network gets to see
    them: those of a benchmark that moves pixels have them moved already. Networks whose batch norm has no running
    statistics (BNNet) answer by all images that are given together.

    Args:
        experiment: how it learns.
        inputs: what images are to the network.

    Attributes:
        experiment: how it learns.
        inputs: what images are to the network.
        net: the network.
        method: what is kept of a task.
        weights: the shared weights.
        tasks: what it has learned.
        record: what was measured.
        folder: where it is saved; nothing if it is not.
        about: what its checkpoints say of it.
    """

    folder: Path | None

    def __init__(self, experiment: Experiment, inputs: Inputs):
        self.experiment, self.inputs = experiment, inputs
        self.net: Network = experiment.network.for_images(inputs.image_shape)
        self.method: Method = experiment.method.for_network(self.net)
        net, self._is_stored = self.net, self._weights_are_stored
        if self._is_stored:  # they are still to be read
            weights, _ = jax.eval_shape(net.init, jax.random.key(0))
            self.weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
            self._fresh_stats = net.init_stats()
        else:
            self.weights, self._fresh_stats = net.init(weights_key(experiment.seed))
        self.record, self.folder = Record(), None
        self.about = describe(experiment, inputs, self.weights)
        self.tasks = self._no_tasks()
        self._steps = 0  # of its checkpoints, so many are known
        self._on_device: Model | None = None

    @classmethod
    def new(cls, network: Network, method: Method | None = None, *, inputs: Inputs, **parts: Any) -> "Run":
        """A run that has learned nothing yet, for data that Python code hands in.

        Args:
            network: the network.
            method: how tasks are learned; by default `methods.SupSup()`.
            inputs: what images are to the network; see `data.Inputs.new`.
            parts: other fields of `Experiment`: `scenario`, `training`, `seed`, `name`.

        Raises:
            UserError: if they do not fit together, or the network has too few outputs.
        """
        method = method or methods.SupSup()
        if "OneShot" not in method.searches:  # what they infer tasks with follows from the method
            parts = {"scenario": GG()} | parts
        whole: dict[str, Any] = {"name": "own", "tasks": UserTasks()} | parts
        experiment = Experiment(network=network, method=method, **whole)
        if experiment.scenario.discovers:
            raise UserError("scenario NNs learns from a stream; see supsup_jax.discovery.Learner")
        run = cls(experiment, inputs)
        if (outputs := run.net.num_outputs) < inputs.num_classes:
            raise UserError(f"the network has {outputs} outputs for {inputs.num_classes} classes; give it more")
        if experiment.scenario.infers and not run.net.uses_batch:
            run.inference()  # what does not fit is said before anything is learned
        return run

    @property
    def num_tasks(self) -> int:
        """How many tasks it has learned."""
        return self.tasks.num_tasks

    @property
    def bank(self) -> Bank:
        """The adapters of all tasks, packed; for SupSup a bank of masks."""
        return self.model.bank

    @property
    def stats(self) -> Stats:
        """The batch-norm statistics of all tasks, stacked along a leading axis; `{}` if there are none."""
        return self.model.stats

    def mask(self, task: int) -> Adapter:
        """The mask of a task: a pytree of 0 and 1 with the structure of the weights.

        Raises:
            UserError: if there is no such task, or its method has no masks.
        """
        if not self.method.has_masks:
            raise UserError(f"{self._name_of('method')} keeps no masks; see weights_for")
        return self.model.adapter(self._existing(task))

    def weights_for(self, task: int) -> Weights:
        """The effective weights of a task: what the network runs with.

        Raises:
            UserError: if there is no such task, or its method cannot give them without images.
        """
        if self.method.recovers:
            raise UserError("HopSupSup keeps no task apart: predict recovers a mask from images of one task")
        return self.model.effective_weights(self._existing(task))

    def stats_for(self, task: int) -> Stats:
        """The batch-norm statistics of a task.

        Raises:
            UserError: if there is no such task.
        """
        return self.model.task_stats(self._existing(task))

    def predict(
        self,
        images: Any,
        task: int | Sequence[int] | np.ndarray | None = None,
        search: str | None = None,
        objective: str | None = None,
    ) -> Prediction:
        """Classifies images.

        Args:
            images: see `Run`.
            task: the task of all images, or of each; by default it is inferred for every single image. HopSupSup, which
                keeps no masks, recovers one from all images, which have to be of one task.
            search: see `infer_task`.
            objective: see `infer_task`.

        Raises:
            UserError: if the images, the tasks, the search or the objective do not fit.
        """
        images = self.inputs.images(images)
        if self.method.recovers:
            return self._with_a_recovered_mask(images, task)
        if task is None:
            tasks = self._infer(images, self.inference(search, objective)).tasks
        else:
            tasks = self._tasks_of(task, len(images))
        logits = np.zeros((len(images), self.net.num_outputs), np.float32)
        for number in np.unique(tasks).tolist():
            rows = np.flatnonzero(tasks == number)
            logits[rows] = self._in_batches(lambda batch, task=number: self._logits(task, batch), images[rows])
        return predicted(logits, tasks, self._names(), self.inputs.num_classes)

    def infer_task(
        self, images: Any, return_scores: bool = False, search: str | None = None, objective: str | None = None
    ) -> Int[np.ndarray, " images"] | InferredTasks:
        """Which task each image belongs to.

        Args:
            images: see `Run`.
            return_scores: whether to give all scores and a confidence as well.
            search: "one_shot", "binary" or "exhaustive"; by default the experiment's, and where that is not for this
                method, or it always was given its tasks, "one_shot" for masks and else "exhaustive".
            objective: "entropy", "superfluous" or, for the exhaustive search, "maximum"; by default the experiment's.

        Raises:
            UserError: if the images, the search or the objective do not fit.
        """
        images = self.inputs.images(images)
        inferred = self._infer(images, self.inference(search, objective))
        return inferred if return_scores else inferred.tasks

    def learn(self, data: tuple[Any, Any], steps: int | None = None, test: tuple[Any, Any] | None = None) -> int:
        """Learns one more task, as the experiment says, and saves it where the run lies, if it lies anywhere.

        Args:
            data: images, see `Run`, and a label for each: numbers or text.
            steps: updates; by default the experiment's.
            test: further images and labels to measure the accuracy on.

        Returns:
            The number of the task.

        Raises:
            UserError: if the data do not fit, or the run cannot go on.
        """
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError("this run discovers its tasks in a stream; supsup_jax.discovery.Learner goes on with that")
        dataset, labels = own_dataset(self.inputs, data, test)
        parts = self._parts(dataset, steps)
        if not self.folder:
            self._take_in(*self._learned_from(dataset, labels, parts))
            return self.num_tasks - 1
        with self._going_on(self.folder, self._steps) as checkpoints:  # before, so that nothing is learned in vain
            chunk, news, state = self._learned_from(dataset, labels, parts)
            checkpoints.save(chunk, news.to_json(), state or None)
        self._steps += 1
        self._take_in(chunk, news, state)
        return self.num_tasks - 1

    def save(self, folder: str | Path) -> None:
        """Saves the run in a new folder; what `learn` learns from now on is saved there.

        Raises:
            UserError: if the folder holds a run already, or nothing has been learned.
        """
        folder = Path(folder).expanduser()
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError("a run that discovers its tasks is saved as it learns; copy its folder")
        if not self.num_tasks:
            raise UserError("there are no tasks to save; learn one first")
        folder.mkdir(parents=True, exist_ok=True)
        with self._going_on(folder, 0) as checkpoints:
            state = self.tasks.state(self.weights)
            checkpoints.save(self.tasks.whole(), self.record.to_json(), state or None)
        self.folder, self._steps = folder, 1

    def export(self, path: str | Path, task: int | None = None) -> None:
        """Writes `predict` as a program that JAX alone can run, on CPU and GPU (StableHLO, by `jax.export`).

        `jax.export.deserialize(bytearray(path.read_bytes())).call(images)` takes any number of images, uint8, and gives
        their classes, tasks and logits.

        Args:
            path: file to write.
            task: the task of all images; by default it is inferred for each.

        Raises:
            UserError: if there is no such task, or the method cannot be exported.
        """
        if self.net.uses_batch:
            raise UserError("this network answers by the other images of its batch too; that is not exported")
        model = self.model
        counts = jnp.asarray(classes_of(self._names(), self.inputs.num_classes))
        if task is not None:
            number = self._existing(task)
            effective, own = self.weights_for(number), self.stats_for(number)

            def logits_of(image: Array) -> tuple[Array, Array]:
                logits, _ = self.net.apply(effective, own, self.inputs.normalise(image[None]), train=False)
                return logits[0], jnp.int32(number)
        else:
            search = self.inference()

            def logits_of(image: Array) -> tuple[Array, Array]:
                (picked,) = search(model, self.inputs.normalise(image[None]))
                return self._logits(picked, image[None])[0], picked

        def predict(image: Array) -> tuple[Array, Array, Array]:
            logits, task = logits_of(image)
            of_task = jnp.where(jnp.arange(len(logits)) < counts[task], logits, -jnp.inf)
            return of_task.argmax().astype(jnp.int32), task, logits

        exporting.export(predict, self.inputs.image_shape, Path(path).expanduser())

    def account(self) -> storage.Account:
        """The bytes that have to be kept, by what they hold."""
        return storage.account(self.model)

    def read(self, folder: Path, last: int | None = None) -> None:
        """Takes in what a folder holds of this run, which has learned nothing yet.

        Args:
            folder: the run's.
            last: the last checkpoint to read, if not all.

        Raises:
            UserError: if it cannot be read, or was learned with other weights.
        """
        with Checkpoints(folder) as checkpoints:
            saved = checkpoints.restore(self.tasks.shapes, self.tasks.state_shapes(), last)
        for step in saved.steps:
            if not self._is_stored:
                check_weights(self.about, step.run, folder)
            self._take_in(step.chunk, Record.from_json(step.record), {})
        self._take_in(None, Record(), saved.state or {})
        self.folder, self._steps = folder, len(saved.steps)

    def _no_tasks(self) -> LearnedTasks | DiscoveredTasks:
        """What holds the tasks to come."""
        if not self.experiment.scenario.discovers:
            return LearnedTasks(self.method, self.weights, self._fresh_stats, weights_are_stored=self._is_stored)
        optimizer = self.experiment.training.optimizer
        return DiscoveredTasks(Learner(self.net, self.method, optimizer), self.weights, self._fresh_stats)

    def _take_in(self, chunk: Chunk | None, news: Record, state: dict[str, Any]) -> None:
        """Takes in tasks, what was measured of them, and what they have replaced."""
        self.record.add(news)
        if chunk:
            self.tasks.add(chunk, news.stream[-1].saved if news.stream else ())
        self.tasks.replace(state)
        self.weights = state.get("weights", self.weights)
        self._on_device = None

    @property
    def model(self) -> Model:
        """What it has learned, on the device.

        Raises:
            UserError: if nothing has been learned yet.
        """
        if not self.num_tasks:
            raise UserError("this run has learned no task yet; learn one first")
        if self._on_device is None:
            weights, bank, stats = jax.device_put((self.weights, *self.tasks.together()))
            self._on_device = Model(
                net=self.net,
                method=self.method,
                num_tasks=self.num_tasks,
                weights=weights,
                bank=bank,
                stats=stats,
            )
        return self._on_device

    def _existing(self, task: int) -> int:
        """The number of a task, if there is such a task."""
        num_tasks = self.model.num_tasks  # of which there has to be one
        if not isinstance(task, int | np.integer) or not 0 <= task < num_tasks:
            raise UserError(f"there is no task {task}; there are tasks 0 to {num_tasks - 1}")
        return int(task)

    def _tasks_of(self, task: Any, images: int) -> Int[np.ndarray, " images"]:
        """The task of each image."""
        tasks = np.asarray(task)
        if not np.issubdtype(tasks.dtype, np.integer) or tasks.shape not in ((), (images,)):
            raise UserError(
                f"task has shape {tasks.shape} and type {tasks.dtype}; give a number, or one for each image"
            )
        for number in np.unique(tasks).tolist():
            self._existing(number)
        return np.broadcast_to(tasks, images).astype(np.int32)

    def inference(self, search: Search | str | None = None, objective: Objective | str | None = None) -> Search:
        """How tasks are inferred; arguments are those of `infer_task`.

        Raises:
            UserError: if the search or the objective are not for this run's method.
        """
        if not self.method.searches or self.net.uses_batch:
            raise UserError(
                f"{self._name_of('method')} with {self._name_of('network')} cannot tell the task of a single image; "
                "give task=..., or for HopSupSup to predict images of one task"
            )
        own = getattr(self.experiment.scenario, "search", None)
        if not isinstance(own, Search) or not own.serves(self.method):
            own = OneShot() if OneShot().serves(self.method) else Exhaustive()
        chosen = own if search is None else self._search_of(search, own)
        if objective is not None:
            chosen = self._with_objective(chosen, objective)
        chosen = chosen.for_classes(self.inputs.num_classes)
        if isinstance(chosen.objective, superfluous) and self.net.num_outputs == self.inputs.num_classes:
            raise UserError("objective superfluous needs a network with more outputs than classes; give entropy")
        return chosen

    def _search_of(self, search: Search | str, own: Search) -> Search:
        """A search by its name, with the objective of the experiment's own."""
        kinds = {name: registry.find("search", name) for name in registry.names("search")}
        possible = [name for name, kind in kinds.items() if issubclass(kind, Search) and kind().serves(self.method)]
        if isinstance(search, str):
            if search not in possible:
                raise UserError(f"search {search} is not for this run; give {' or '.join(possible)}")
            if type(own) is kinds[search]:
                return own
            return kinds[search](own.objective if search == "exhaustive" or own.objective is not maximum else entropy)
        if not search.serves(self.method):
            raise UserError(f"search {type(search).__name__} is not for this run; give {' or '.join(possible)}")
        return search

    def _with_objective(self, search: Search, objective: Objective | str) -> Search:
        """The search with another objective, which may be given by its name."""
        if isinstance(objective, str):
            possible = [name for name in registry.names("objective") if name != "maximum" or type(search) is Exhaustive]
            if objective not in possible:
                raise UserError(f"objective {objective} is not for this run; give {' or '.join(possible)}")
            found = registry.find("objective", objective)
            objective = found() if isinstance(found, type) else found
        return dataclasses.replace(search, objective=objective)

    def _name_of(self, kind: str) -> str:
        return registry.name_of(kind, getattr(self.experiment, kind))

    def _infer(self, images: np.ndarray, search: Search) -> InferredTasks:
        model = self.model
        tasks, scores = self._in_batches(lambda batch: prediction.inferred(model, self.inputs, search, batch), images)
        share = np.asarray(jax.nn.softmax(-scores, axis=-1))
        return InferredTasks(tasks, scores, np.take_along_axis(share, tasks[:, None], 1)[:, 0])

    def _logits(self, task: int | Array, images: np.ndarray | Array) -> Array:
        return prediction.logits(self.model, self.inputs, jnp.int32(task), images)

    def _in_batches(self, function: Callable[[np.ndarray], Any], images: np.ndarray) -> Any:
        return jax.device_get(function(images)) if self.net.uses_batch else in_batches(function, images)

    def _with_a_recovered_mask(self, images: np.ndarray, task: Any) -> Prediction:
        """What HopSupSup says of images of one task, in batches as large as in its evaluation."""
        if task is not None:
            raise UserError("HopSupSup keeps no task apart, so none can be given: it recovers a mask from the images")
        memory = self.model.bank
        recover = getattr(self.experiment.scenario, "search", None)
        assert isinstance(recover, Recovery)
        batch = min(self.experiment.scenario.test_batch_size, len(images))
        rows = np.arange(-(-len(images) // batch) * batch).reshape(-1, batch) % len(images)
        batches = self.inputs.normalise(images[rows.reshape(-1)]).reshape(*rows.shape, *self.inputs.image_shape)
        mask, _ = recover(self.net, self.weights, memory, batches)
        effective = self.method.effective_weights(self.weights, mask)
        logits = jax.lax.map(lambda images: self.net.apply(effective, {}, images, train=False)[0], batches)
        logits = np.asarray(logits).reshape(rows.size, -1)[: len(images)]
        return predicted(logits, np.full(len(images), -1, np.int32), self._names(), self.inputs.num_classes)

    def _names(self) -> list[list[Any] | None]:
        """What the classes of each task are called, where it is one's own."""
        if isinstance(self.tasks, DiscoveredTasks):
            return [None] * self.num_tasks
        return [result.labels for result in self.record.tasks]

    def _learned_from(self, dataset: Dataset, labels: list[Any], parts: Parts) -> tuple[Chunk, Record, dict[str, Any]]:
        """A task, learned: what is kept of it, what was measured, and what it replaces."""
        assert isinstance(self.tasks, LearnedTasks)
        number = self.experiment.first_task + self.num_tasks
        learn = programs.alone(parts, self.experiment.training.batch_size, self.method.trains_weights(number))
        started = time.perf_counter()
        before = self.tasks.started_from(self.weights)
        (description,) = zip(*parts.benchmark.tasks(dataset, 0, [0]), strict=True)
        shared = self.weights, self._fresh_stats, dataset.train, dataset.test, before
        one = learn(shared, (Part(*description), task_key(self.experiment.seed, number)))
        loss, accuracy = jax.device_get((one.loss, one.accuracy))
        if (step := int(one.diverged)) < parts.steps:
            raise programs.divergence(parts, number, step, not_finite(loss))
        adapters, stats = jax.tree.map(lambda leaf: leaf[None], (one.adapter, one.stats))
        chunk, state = self.tasks.chunk(adapters, stats, 1)
        if self.method.in_turn(number):
            state |= self.tasks.left(one.weights, one.carry)
        if state and self._is_stored:
            state = {"weights": jax.device_get(self.weights)} | state
        result = TaskResult(
            number,
            records.now(),
            loss=float(loss[-1]),
            accuracy=float(accuracy[-1]),
            best=float(accuracy.max()),
            seconds=time.perf_counter() - started,
            labels=labels,
        )
        return chunk, Record(tasks=[result]), state

    def _parts(self, dataset: Dataset, steps: int | None) -> Parts:
        """What it takes to learn from a user's arrays."""
        training, network = self.experiment.training, self.experiment.network
        this: Any = network
        if steps is not None:
            training = dataclasses.replace(training, steps=steps, epochs=None)
        if network.sync_bn:
            network = dataclasses.replace(this, sync_bn=False)
        changes: dict[str, Any] = {"tasks": UserTasks(num_tasks=1), "first_task": 0}
        return dataclasses.replace(self.experiment, training=training, network=network, **changes).build(dataset)

    @property
    def _weights_are_stored(self) -> bool:
        """Whether the base weights lie in the checkpoints of a run that was imported."""
        return self.experiment.network.initializer is stored

    @contextlib.contextmanager
    def _going_on(self, folder: Path, steps: int) -> Iterator[Checkpoints]:
        """The checkpoints of a folder that no other process uses meanwhile, and that holds so many steps.

        Raises:
            UserError: if another process is using the folder, or it holds others.
        """
        with atomic.alone(folder), Checkpoints(folder, self.about) as checkpoints:
            if checkpoints.go_on() != steps:
                raise UserError(
                    f"{folder} holds a run already; give a new folder"
                    if not steps
                    else f"{folder} has other steps than were read; restore all of it, and go on with that"
                )
            yield checkpoints
