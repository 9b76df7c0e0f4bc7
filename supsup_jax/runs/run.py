"""A trained run as something to work with: which task is this, which class, what is the mask, learn one more.

run = supsup_jax.restore("runs/quickstart/seed=1")
run.predict(images).labels
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from supsup_jax import arguments
from supsup_jax.components import stored
from supsup_jax.data import Dataset, Inputs
from supsup_jax.data.own import UserTasks, handed, own_dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.methods import Carry, Method
from supsup_jax.model import Model
from supsup_jax.networks import Network, Weights
from supsup_jax.runs import composition
from supsup_jax.runs import results as results_files
from supsup_jax.runs.checkpoints import Checkpoints, Chunk
from supsup_jax.runs.description import check_weights, describe
from supsup_jax.runs.pending import Pending
from supsup_jax.runs.predictor import Predictor
from supsup_jax.runs.python_run import experiment_for
from supsup_jax.runs.records import EvaluationResult, Record
from supsup_jax.runs.task_store import DiscoveredTasks, LearnedTasks, TaskStore
from supsup_jax.scenarios import NNs
from supsup_jax.scenarios.discovery import State
from supsup_jax.scenarios.work import Results, StreamResults, Work
from supsup_jax.system import atomic, hosts, numerics
from supsup_jax.training import weights_key


class Run(Predictor):
    """Tasks learned in one network. `restore` gives a run from disk, and `new` one that has learned nothing yet.

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

    @numerics.with_fixed_flags
    def __init__(self, experiment: Experiment, inputs: Inputs):
        self.experiment, self.inputs = experiment, inputs
        self.net: Network = experiment.network.for_images(inputs.image_shape)
        self.method: Method = experiment.method.for_network(self.net)
        net, self._is_stored = self.net, experiment.network.initializer is stored
        if self._is_stored:  # in the checkpoints, as weights of an imported run are
            weights, _ = jax.eval_shape(net.init, numerics.key(0))
            self.weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
            self.fresh_stats = net.init_stats()
        else:
            self.weights, self.fresh_stats = net.init(weights_key(experiment.seed))
        self.record, self.folder = Record(), None
        self.about = describe(experiment, inputs, self.weights)
        self.tasks = self._no_tasks()
        self._steps = 0  # checkpoints that were read or written
        self._checkpoints: Checkpoints | None = None  # while it is locked
        self._tables: results_files.Tables | None = None
        self._on_device: Model | None = None

    @classmethod
    def new(cls, network: Network | Any, method: Method | Any = None, *, inputs: Inputs | Any, **parts: Any) -> "Run":
        """A run that has learned nothing yet, for data that Python code hands in.

        Args:
            network: the network.
            method: how tasks are learned; by default `methods.SupSup()`.
            inputs: what images are to the network; see `data.Inputs.new`.
            parts: other fields of `Experiment`: `scenario`, `training`, `seed`, `name`.

        Raises:
            UserError: if they do not fit together, or the network has too few outputs.
        """
        experiment = experiment_for(network, method, parts)
        if not isinstance(inputs, Inputs):
            raise arguments.wrong_type("inputs", inputs, "data.Inputs.new(image_shape, num_classes)")
        inputs = inputs.checked()
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
    def num_recorded(self) -> int:
        """How many tasks have come; where tasks are discovered, it may have learned fewer."""
        return len(self.record.tasks)

    @numerics.with_fixed_flags
    def learn(self, data: Any, labels: Any = None, steps: Any = None, test: Any = None) -> int:
        """Learns one more task, as the experiment says, and saves it where the run lies, if it lies anywhere.

        `learn(images, labels)`, `learn((images, labels))` and `learn(data_set)`, one of PyTorch, are the same.

        Args:
            data: images, see `Run`; or what holds them and their labels.
            labels: a label for each image: numbers or text. After a pair, a number is `steps`, and the next one `test`.
            steps: updates; by default the experiment's.
            test: further images and labels to measure the accuracy on, as a pair or a data set of PyTorch.

        Returns:
            The number of the task.

        Raises:
            UserError: if the data do not fit, or the run cannot go on.
        """
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError(
                "this run discovers its tasks in a stream; supsup_jax.scenarios.discovery.Learner goes on with that"
            )
        data, steps, test = handed(data, labels, steps, test)
        dataset, names = own_dataset(self.inputs, data, test)
        with self.locked():  # before, so that nothing is learned in vain
            for results in self.experiment.scenario.learn(self._work(dataset, steps)):
                self.add(results, names)
        return self.num_tasks - 1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the run's folder from other processes, and saves there what is added meanwhile.

        Raises:
            UserError: if another process is using the folder, or it has changed since it was read.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if self.folder is not None:
                self._checkpoints = stack.enter_context(self._opened(self.folder, self._steps))
            yield

    def open_tables(self) -> None:
        """Writes the tables of a script's run as well, while it is locked.

        Raises:
            UserError: if `results.csv` cannot be used; then nothing is written.
        """
        if self.folder is not None and hosts.is_first():
            self._tables = results_files.Tables(self.folder)
            self._tables.write(self.record, self.record, is_new=False)

    def _close(self) -> None:
        if self._tables is not None:
            self._tables.close()
        self._checkpoints = self._tables = None

    def add(self, results: Results | StreamResults, labels: list[Any] | None = None) -> None:
        """Adds newly learned tasks: saves a checkpoint, then extends the model, the record and the tables.

        Args:
            results: what the scenario yields.
            labels: what the classes of the task are called, where it is a user's own.

        Raises:
            UserError: if they cannot be saved; then nothing is added.
        """
        tasks = cast(TaskStore, self.tasks)
        chunk, news, state = tasks.pack(results, self.experiment.first_task + self.num_recorded, labels)
        if state and self._is_stored:
            state = {"weights": jax.device_get(self.weights)} | state
        self._save(chunk, news, state)
        tasks.add_learned(results, chunk)
        self._replace(state)
        self.pending.forget_unfinished()
        self._write(news)

    def add_evaluation(self, result: EvaluationResult) -> None:
        """Adds an evaluation to the record: saves a checkpoint, and writes the tables.

        Raises:
            UserError: if it cannot be saved.
        """
        news = Record(evaluations=[result])
        self._save(None, news, {})
        self.pending.forget_evaluation()
        self._write(news)

    def _save(self, chunk: Chunk | None, news: Record, state: dict[str, Any]) -> None:
        """Saves what is new in a checkpoint, if the run has a folder, and extends the record."""
        if self._checkpoints is not None:
            self._checkpoints.save(chunk, news.to_json(), state or None)
            self._steps += 1
        self.record.add(news)

    def _write(self, news: Record) -> None:
        if self._tables is not None:
            self._tables.write(self.record, news, is_new=True)

    def _replace(self, state: dict[str, Any]) -> None:
        """Takes in what newly learned tasks have replaced."""
        self.tasks.replace(state)
        self.weights = state.get("weights", self.weights)
        self._on_device = None

    def carry(self) -> Carry:
        """What the tasks so far left for the next one to start from."""
        assert isinstance(self.tasks, LearnedTasks)
        return self.tasks.next_carry(self.weights)

    def state_of_learner(self) -> State:
        """The state of the learner that discovers the tasks of a stream."""
        assert isinstance(self.tasks, DiscoveredTasks)
        return self.tasks.state_of_learner()

    @property
    def pending(self) -> Pending:
        """Unfinished work of the run, which is saved while the run is locked."""
        return Pending(self.folder, self._checkpoints, self._check)

    @numerics.with_fixed_flags
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Saves the run in a new folder; what `learn` learns from now on is saved there.

        Raises:
            UserError: if the folder holds a run already, or nothing has been learned.
        """
        folder = arguments.path("folder", folder)
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError("a run that discovers its tasks is saved as it learns; copy its folder")
        if not self.num_tasks:
            raise UserError("there are no tasks to save; learn one first")
        folder.mkdir(parents=True, exist_ok=True)
        with self._opened(folder, 0) as checkpoints:
            state = self.tasks.state(self.weights)
            checkpoints.save(self.tasks.merge(), self.record.to_json(), state or None)
        self.folder, self._steps = folder, 1

    @numerics.with_fixed_flags
    def read(self, checkpoints: Checkpoints, last: int | None = None, resumes: bool = False) -> None:
        """Takes in what a folder holds of this run, which has learned nothing yet.

        Args:
            checkpoints: of the run's folder.
            last: the last checkpoint to read, if not all.
            resumes: whether the run's experiment is to be resumed there; the folder may be empty then.

        Raises:
            UserError: if it cannot be read, is another run's, or was learned with other weights.
        """
        saved = checkpoints.restore(self.tasks.shapes, self.tasks.state_shapes(), last)
        self.folder, self._steps = checkpoints.folder, len(saved.steps)
        for step in saved.steps:
            self._check(step.run, same_settings=resumes)
            news = Record.from_json(step.record)
            if resumes and any(task.labels for task in news.tasks):
                raise UserError(
                    f"{self.folder} holds tasks that were learned from Python; go on there: supsup_jax.restore(...)"
                )
            self.record.add(news)
            if step.chunk or news.stream:
                self.tasks.add(step.chunk, news.stream)
        self._replace(saved.state or {})

    def _check(self, run: dict[str, Any], same_settings: bool = True) -> None:
        """Compares what a checkpoint says of its run with this run.

        Raises:
            UserError: if it is another run.
        """
        differences = composition.differences(self.experiment, run["experiment"]) if same_settings else []
        if differences:
            raise UserError(
                f"{self.folder} holds a run of other settings ({'; '.join(differences)}); use its settings, "
                "or start without --resume"
            )
        if not self._is_stored:
            assert self.folder is not None
            check_weights(self.about, run, self.folder)

    def _no_tasks(self) -> LearnedTasks | DiscoveredTasks:
        """What holds the tasks to come."""
        if not self.experiment.scenario.discovers:
            return LearnedTasks(self.method, self.weights, self.fresh_stats, weights_are_stored=self._is_stored)
        training, scenario = self.experiment.training, self.experiment.scenario
        assert isinstance(scenario, NNs)
        optimizer, _ = training.optimizers(training.batch_size)  # its state has the same form for any number of samples
        learner = scenario.learner(self.net, self.method, optimizer, self.experiment.seed)
        return DiscoveredTasks(learner, self.weights, self.fresh_stats)

    @property
    def model(self) -> Model:
        """What it has learned, on the device.

        Raises:
            UserError: if nothing has been learned yet.
        """
        if not self.num_tasks:
            raise UserError("this run has learned no task yet; learn one first")
        if self._on_device is None:
            model: Model = jax.device_put(self.model_of(self.num_tasks, self.weights))
            self._on_device = model
        return self._on_device

    def model_of(self, num_tasks: int, weights: Weights) -> Model:
        """The first tasks, or all that were discovered, with what is kept of them on the host.

        Args:
            num_tasks: how many tasks were learned.
            weights: the base weights as they are now.
        """
        bank, stats = self.tasks.stack()
        count = self.num_tasks if self.experiment.scenario.discovers else num_tasks
        return Model(net=self.net, method=self.method, num_tasks=count, weights=weights, bank=bank, stats=stats)

    def _work(self, dataset: Dataset, steps: int | None) -> Work:
        """One more task, of a user's arrays."""
        training, network = self.experiment.training, self.experiment.network
        this: Any = network
        if steps is not None:
            training = dataclasses.replace(training, steps=steps, epochs=None)
        if network.sync_bn:
            network = dataclasses.replace(this, sync_bn=False)
        changes: dict[str, Any] = {"tasks": UserTasks(num_tasks=1), "first_task": 0}
        parts = dataclasses.replace(self.experiment, training=training, network=network, **changes).build(dataset)
        return Work(
            parts=parts,
            dataset=dataset,
            tasks=parts.benchmark.tasks(dataset, 0, [0]),
            seed=self.experiment.seed,
            first_task=self.experiment.first_task + self.num_recorded,
            batch_size=training.batch_size,
            evaluations=(1,),
            num_learned=0,
            weights=self.weights,
            stats=self.fresh_stats,
            train=dataset.train,
            test=dataset.test,
            tasks_at_once=1,
            carry=self.carry,
            state=self.state_of_learner,
            pending=self.pending,
            side_by_side=False,
        )

    @contextlib.contextmanager
    def _opened(self, folder: Path, steps: int) -> Iterator[Checkpoints]:
        """The checkpoints of a folder, which no other process uses meanwhile, and which holds so many steps.

        Raises:
            UserError: if another process is using the folder, or it holds others.
        """
        with hosts.held_by_first(atomic.alone(folder)), Checkpoints(folder, self.about) as checkpoints:
            if hosts.told_by_first(checkpoints.resume) != steps:
                others = "has other steps than were read; restore all of it, and go on with that"
                raise UserError(f"{folder} {others if steps else 'holds a run already; give a new folder'}")
            yield checkpoints
