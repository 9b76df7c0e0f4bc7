"""A run as an object: infer tasks, classify images, return masks, learn further tasks, save.

Example:
    run = supsup_jax.restore("runs/quickstart/seed=1")
    run.predict(images).labels
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax

from supsup_jax import arguments
from supsup_jax.data import Inputs
from supsup_jax.data.user_tasks import learn_arguments, user_dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.inference import Search
from supsup_jax.methods import Carry, Method
from supsup_jax.model import Model
from supsup_jax.networks import Network, Weights
from supsup_jax.runs import calibration, composition
from supsup_jax.runs import results as results_files
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.description import check_weights, describe
from supsup_jax.runs.initial import Start, start_of
from supsup_jax.runs.pending import Pending
from supsup_jax.runs.predictor import Predictor
from supsup_jax.runs.python_run import experiment_for, work_for
from supsup_jax.runs.records import EvaluationResult, Record, StreamResult
from supsup_jax.runs.task_store import DiscoveredTasks, LearnedTasks, NewTasks, TaskStore
from supsup_jax.scenarios import NNs
from supsup_jax.scenarios.discovery import State
from supsup_jax.scenarios.work import Results, StreamResults
from supsup_jax.system import atomic, hosts, numerics


class Run(Predictor):
    """Tasks learned in one network. `restore` returns a run from disk, `Run.new` a run without tasks.

    Tasks are numbered from 0 in the order in which they were learned or discovered.

    Images are `(images, height, width, channels)`, uint8 from 0 to 255 or floats from 0 to 1, in the form that the
    network receives: if a benchmark permutes or rotates pixels, do so before. Networks whose batch norm has no running
    statistics (BNNet) use all images of a call together.

    Args:
        experiment: the experiment.
        inputs: inputs of the network.
        start: returns the initial weights of the network; by default those of the experiment.

    Attributes:
        experiment: the experiment.
        inputs: inputs of the network.
        net: the network.
        method: the method.
        weights: the base weights.
        fresh_stats: initial batch-norm statistics of a task.
        tasks: the learned tasks.
        record: measurements.
        folder: folder where the run is saved; `None` if it is not saved.
        about: description of the run in its checkpoints.
    """

    @numerics.with_fixed_flags
    def __init__(self, experiment: Experiment, inputs: Inputs, start: Start | None = None):
        self.experiment, self.inputs = experiment, inputs
        self.net: Network = experiment.network.for_images(inputs.image_shape)
        self.method: Method = experiment.method.for_network(self.net)
        initial = (start or start_of(experiment))(self.net)
        self.weights, self.fresh_stats = initial.weights, initial.stats
        self._is_stored, self._sha256 = initial.is_stored, initial.sha256
        self.record, self.folder = Record(), None
        self.about = describe(experiment, inputs, self.weights, self._sha256)
        self.tasks = self._no_tasks()
        self._steps = 0  # number of saves read or written
        self._checkpoints: Checkpoints | None = None  # while the run is locked
        self._tables: results_files.Tables | None = None

    @classmethod
    def new(cls, network: Network | Any, method: Method | Any = None, *, inputs: Inputs | Any, **parts: Any) -> "Run":
        """Return a run without tasks, for data from Python.

        Args:
            network: the network.
            method: the method; by default `methods.SupSup()`.
            inputs: inputs of the network; see `data.Inputs.new`.
            parts: other fields of `Experiment`: `scenario`, `training`, `seed`, `name`, and `base_weights`, which may
                also be a pytree (see `networks.load_weights`).

        Raises:
            UserError: if the parts do not fit together, the network has too few outputs, or the weights do not fit.
        """
        experiment, start = experiment_for(network, method, parts)
        if not isinstance(inputs, Inputs):
            raise arguments.wrong_type("inputs", inputs, "data.Inputs.new(image_shape, num_classes)")
        inputs = inputs.checked()
        run = cls(experiment, inputs, start)
        if (outputs := run.net.num_outputs) < inputs.num_classes:
            raise UserError(f"the network has {outputs} outputs for {inputs.num_classes} classes; give it more")
        if experiment.scenario.infers and not run.net.uses_batch:
            run.inference()  # raises an error before anything is learned
        return run

    @property
    def has_given_weights(self) -> bool:
        """Whether the user gave the initial base weights; otherwise the seed determines them."""
        return self._sha256 is not None

    @property
    def num_tasks(self) -> int:
        """Number of learned tasks."""
        return self.tasks.num_tasks

    @property
    def num_recorded(self) -> int:
        """Number of recorded tasks; if tasks are discovered, fewer may have been learned."""
        return len(self.record.tasks)

    @numerics.with_fixed_flags
    def learn(self, data: Any, labels: Any = None, steps: Any = None, test: Any = None) -> int:
        """Learn one more task with the settings of the experiment, and save it if the run has a folder.

        `learn(images, labels)`, `learn((images, labels))` and `learn(dataset)`, with a PyTorch data set, are
        equivalent.

        Args:
            data: images (see `Run`), or a pair or data set of images and labels.
            labels: one label per image: numbers or strings. After a pair, a number here is `steps`, and the next
                argument is `test`.
            steps: number of training steps; by default the experiment's.
            test: test images and labels, as a pair or a PyTorch data set, to measure the accuracy on.

        Returns:
            The task number.

        Raises:
            UserError: if the data do not fit, or the run cannot learn tasks from Python.
        """
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError(
                "this run discovers its tasks in a stream; use supsup_jax.scenarios.discovery.Learner to continue it"
            )
        data, steps, test = learn_arguments(data, labels, steps, test)
        dataset, names = user_dataset(self.inputs, data, test)
        with self.locked():  # first, so that an error comes before the training
            first_task = self.experiment.first_task + self.num_recorded
            now = {"weights": self.weights, "stats": self.fresh_stats, "pending": self.pending}
            getters = {"carry": self.carry, "state": self.state_of_learner}
            work = work_for(self.experiment, dataset, steps, first_task=first_task, **now, **getters)
            for results in self.experiment.scenario.learn(work):
                self.add(results, names)
        return self.num_tasks - 1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run's folder against other processes; tasks and evaluations added meanwhile are saved there.

        Raises:
            UserError: if another process uses the folder, or the folder has changed since it was read.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if self.folder is not None:
                self._checkpoints = stack.enter_context(self._opened(self.folder, self._steps))
            yield

    def open_tables(self) -> None:
        """Also write the tables of a run that a script started, until the lock is released.

        Raises:
            UserError: if `results.csv` cannot be used; nothing is written then.
        """
        if self.folder is not None and hosts.is_first():
            self._tables = results_files.Tables(self.folder)
            self._tables.write(self.record, self.record, is_new=False)

    def _close(self) -> None:
        if self._tables is not None:
            self._tables.close()
        self._checkpoints = self._tables = None

    def add(self, results: Results | StreamResults | NewTasks, labels: list[Any] | None = None) -> None:
        """Add newly learned tasks: save a checkpoint, then update the model, the record and the tables.

        Args:
            results: a result of `Scenario.learn`, or the tasks of a different run; see `reuse`.
            labels: class labels of the task, if it is user-supplied.

        Raises:
            UserError: if the tasks cannot be saved; nothing is added then.
        """
        tasks = cast(TaskStore, self.tasks)
        first = self.experiment.first_task + self.num_recorded
        chunk, added, state = results if isinstance(results, NewTasks) else tasks.pack(results, first, labels)
        state = (self.stored_weights() if state or not self._steps else {}) | state
        self._save(chunk, added, state)
        tasks.add_learned(results, chunk)
        self._replace(state)
        self.pending.forget_unfinished()
        self._write(added)

    def add_evaluation(self, result: EvaluationResult) -> None:
        """Add an evaluation to the record: save a checkpoint, and write the tables.

        Raises:
            UserError: if the evaluation cannot be saved.
        """
        added = Record(evaluations=[result])
        self._save(None, added, {})
        self.pending.forget_evaluation()
        self._write(added)

    def _save(self, chunk: Chunk | None, added: Record, state: dict[str, Any]) -> None:
        """Save a checkpoint if the run has a folder, and extend the record."""
        if self._checkpoints is not None:
            self._checkpoints.save(chunk, added.to_json(), state or None)
            self._steps += 1
        self.record.add(added)

    def _write(self, added: Record) -> None:
        """Write the tables. Then merge small checkpoints: an interruption here leaves the run as it is on disk."""
        if self._tables is not None:
            self._tables.write(self.record, added, is_new=True)
        if self._checkpoints is not None:
            self._checkpoints.merge(self.tasks)

    def _replace(self, state: dict[str, Any]) -> None:
        """Update the state: the base weights, the initial statistics, the memory and the carry."""
        self.tasks.replace(state)
        self.weights = state.get("weights", self.weights)
        self.fresh_stats = state.get("stats", self.fresh_stats)
        self._on_device = None

    def stored_weights(self) -> dict[str, Any]:
        """Return base weights and initial statistics as part of the state; `{}` if the seed determines them."""
        if not self._is_stored:
            return {}
        has_stats = self.has_given_weights and jax.tree.leaves(self.fresh_stats)
        return jax.device_get({"weights": self.weights} | ({"stats": self.fresh_stats} if has_stats else {}))

    def carry(self) -> Carry:
        """Return the carry that the next task starts from."""
        assert isinstance(self.tasks, LearnedTasks)
        return self.tasks.next_carry(self.weights)

    def state_of_learner(self) -> State:
        """Return the state of the learner of a stream."""
        assert isinstance(self.tasks, DiscoveredTasks)
        return self.tasks.state_of_learner()

    @property
    def pending(self) -> Pending:
        """Partial work of the run, which is saved only while the run is locked."""
        return Pending(self.folder, self._checkpoints, self._check)

    @numerics.with_fixed_flags
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the run in a new folder; tasks learned later are saved there too.

        Args:
            folder: the folder.

        Raises:
            UserError: if the folder already contains a run or cannot be created, or no task has been learned.
        """
        folder = arguments.path("folder", folder)
        if isinstance(self.tasks, DiscoveredTasks):
            raise UserError("a run that discovers its tasks is saved during training; copy its folder")
        if not self.num_tasks:
            raise UserError("this run has no tasks to save; learn one first")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"folder {folder} cannot be created ({error.strerror}); give another folder") from None
        calibrations = self.calibrations  # before anything is written, since their file may be damaged
        with self._opened(folder, 0) as checkpoints:
            state = self.stored_weights() | self.tasks.state(self.weights)
            checkpoints.save(self.tasks.merge(), self.record.to_json(), state or None)
        calibration.write(folder, calibrations)
        self.folder, self._steps = folder, 1

    @numerics.with_fixed_flags
    def read(
        self, checkpoints: Checkpoints, last: int | None = None, *, resumes: bool = False, with_tasks: bool = True
    ) -> None:
        """Read the checkpoints of this run, which must not have tasks yet.

        Args:
            checkpoints: checkpoints of the run's folder.
            last: number of the last checkpoint to read; by default all are read.
            resumes: whether a script resumes the run; the folder may be empty then.
            with_tasks: whether to read the tasks as well; otherwise this run cannot use or learn any.

        Raises:
            UserError: if the checkpoints cannot be read, belong to a different run, or have other initial weights.
        """
        state_shapes = jax.eval_shape(self.stored_weights) | self.tasks.state_shapes()
        shapes = self.tasks.shapes if with_tasks else None
        saved = checkpoints.restore(shapes, state_shapes, last, self.tasks.concatenate)
        self.folder, self._steps = checkpoints.folder, len(saved.steps)
        stream: list[StreamResult] = []
        checked: list[dict[str, Any]] = []
        for step in saved.steps:
            if step.run not in checked:
                self._check(step.run, same_settings=resumes)
                checked.append(step.run)
            added = Record.from_json(step.record)
            if resumes and any(task.labels for task in added.tasks):
                raise UserError(
                    f"{self.folder} contains tasks that were learned from Python; continue from Python, with "
                    "supsup_jax.restore(...)"
                )
            self.record.add(added)
            stream += added.stream
            if step.chunk:
                self.tasks.add(step.chunk, stream)
                stream = []
        self.tasks.add(None, stream)
        self._replace(saved.state or {})

    def _check(self, run: dict[str, Any], same_settings: bool = True) -> None:
        """Compare the description of a run in a checkpoint with this run.

        Raises:
            UserError: if the runs differ.
        """
        differences = composition.differences(self.experiment, run["experiment"]) if same_settings else []
        if differences:
            raise UserError(
                f"{self.folder} contains a run with different settings ({'; '.join(differences)}); use its settings, "
                "or start without --resume"
            )
        if self.has_given_weights or not self._is_stored:
            assert self.folder is not None
            check_weights(self.about, run, self.folder)

    def _no_tasks(self) -> LearnedTasks | DiscoveredTasks:
        """Return an empty store of tasks."""
        if not self.experiment.scenario.discovers:
            return LearnedTasks(self.method, self.weights, self.fresh_stats)
        training, scenario = self.experiment.training, self.experiment.scenario
        assert isinstance(scenario, NNs)
        optimizer, _ = training.optimizers(training.batch_size)  # the state has the same form for any number of samples
        learner = scenario.learner(self.net, self.method, optimizer, self.experiment.seed)
        return DiscoveredTasks(learner, self.weights, self.fresh_stats)

    @property
    def model(self) -> Model:
        """The learned model, on the device.

        Raises:
            UserError: if no task has been learned.
        """
        if not self.num_tasks:
            raise UserError("this run has not learned any task; learn one first")
        if self._on_device is None:
            model = self.model_of(self.num_tasks, self.weights)
            placed: Model = jax.device_put(model) if self._devices is None else model.sharded(self._devices)
            self._on_device = placed
        return self._on_device

    def model_for(self, search: Search) -> Model:
        """Return the learned model with counts of the masks if the search uses them; they are computed once.

        Raises:
            UserError: if no task has been learned.
        """
        if not search.uses_counts:
            return self.model
        self._on_device = self.model.with_counts()
        return self._on_device

    def model_of(self, num_tasks: int, weights: Weights) -> Model:
        """Return the model after the first tasks, or with all discovered tasks; bank and statistics are on the host.

        Args:
            num_tasks: number of tasks.
            weights: current base weights.
        """
        bank, stats = self.tasks.stack()
        count = self.num_tasks if self.experiment.scenario.discovers else num_tasks
        return Model(net=self.net, method=self.method, num_tasks=count, weights=weights, bank=bank, stats=stats)

    @contextlib.contextmanager
    def _opened(self, folder: Path, steps: int) -> Iterator[Checkpoints]:
        """Open the checkpoints of a folder, which must have `steps` checkpoints, and lock the folder.

        Raises:
            UserError: if another process uses the folder, or it has a different number of checkpoints.
        """
        with hosts.enter_on_first(atomic.locked(folder)), Checkpoints(folder, self.about) as checkpoints:
            if hosts.broadcast(checkpoints.resume) != steps:
                changed = "has changed since this run was read; restore all of it, then continue"
                raise UserError(f"{folder} {changed if steps else 'already contains a run; give a new folder'}")
            yield checkpoints
