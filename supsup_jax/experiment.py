"""Experiments: everything that determines what a run computes, composed of parts."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax

from supsup_jax.arguments import Part
from supsup_jax.checks import LARGEST_COUNT, check_count, check_counts, check_number
from supsup_jax.data import Dataset, TaskFamily
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.inference import Binary, Descent, Exhaustive, OneShot, Recovery, superfluous
from supsup_jax.methods import Method, SupSup
from supsup_jax.networks import Network
from supsup_jax.optimizers import Cosine, Optimizer, RMSprop, Schedule, Warmup
from supsup_jax.registry import name_of
from supsup_jax.scenarios.scenario import GNu, Scenario
from supsup_jax.scenarios.work import Parts
from supsup_jax.system import numerics


@dataclass(frozen=True)
class Training(Part):
    """Training settings of a task.

    Attributes:
        steps: number of updates per task.
        epochs: number of passes over a task's training images, instead of `steps`; the last batch of each pass counts
            as a whole batch.
        batch_size: number of images per update.
        optimizer: the optimizer, with a new state for every task.
        weights_learning_rate: learning rate of tasks that train the base weights, for everything that they train.
        schedule: schedule of the learning rate over a task's updates; the cosine changes once per epoch.
        warmup_epochs: number of epochs over which the learning rate grows linearly, before `schedule` applies.

    Raises:
        ArgumentError: if a value is out of range.
    """

    kind: ClassVar[str] = "training"

    steps: int = 1000
    epochs: int | None = None
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=RMSprop)
    weights_learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "epochs", "batch_size")
        check_count("warmup_epochs", self.warmup_epochs, lowest=0)
        check_number("weights_learning_rate", self.weights_learning_rate)
        if self.schedule not in ("constant", "cosine"):
            raise ArgumentError("schedule", self.schedule, "must be constant or cosine")

    def steps_of(self, train_size: int) -> int:
        """Return the number of updates of a task with `train_size` training images.

        Raises:
            ArgumentError: if there are too many updates, or the warm-up takes all of them.
        """
        per_epoch = -(-train_size // self.batch_size)
        steps = self.steps if self.epochs is None else self.epochs * per_epoch
        if steps * self.batch_size > LARGEST_COUNT:
            problem = f"{steps} updates of {self.batch_size} images are too many for one task; give fewer"
            raise ArgumentError("steps" if self.epochs is None else "epochs", self.epochs or self.steps, problem)
        epochs = -(-steps // per_epoch)
        if self.warmup_epochs >= epochs:
            problem = f"must be less than the {epochs} epochs of training"
            raise ArgumentError("warmup_epochs", self.warmup_epochs, problem)
        return steps

    def optimizers(self, train_size: int) -> tuple[Optimizer, Optimizer]:
        """Return the optimizers of a task, and of a task that trains the base weights, with their schedules."""
        per_epoch = -(-train_size // self.batch_size)
        schedule: Schedule | None = Warmup(self.warmup_epochs, per_epoch) if self.warmup_epochs else None
        if self.schedule == "cosine":
            schedule = Cosine(-(-self.steps_of(train_size) // per_epoch), per_epoch, self.warmup_epochs)
        optimizer = dataclasses.replace(self.optimizer, schedule=schedule)  # pyright: ignore[reportArgumentType]
        return optimizer, dataclasses.replace(optimizer, learning_rate=self.weights_learning_rate)


@dataclass(frozen=True)
class Experiment(Part):
    """Everything that determines what a run computes: equal experiments give equal numbers.

    Attributes:
        name: folder of the results, relative to the log directory.
        tasks: a family of tasks over a data set.
        network: the network.
        method: the method of learning tasks in one network.
        scenario: whether the task is known in training and at inference, and how it is inferred.
        training: training settings of a task.
        evaluate_at: numbers of tasks after which all learned tasks are evaluated; the last one is always included.
        first_task: the first task to learn, if tasks are independent and given (scenario GG).
        seed: random seed of weights, scores, tasks and batches.
        base_weights: file of trained weights to start from, instead of random ones: safetensors, Flax's msgpack, or the
            folder of an Orbax checkpoint. The last layer is drawn if it does not fit.

    Raises:
        UserError: if a value is out of range, or parts do not fit together.
    """

    name: str
    tasks: TaskFamily
    network: Network
    method: Method = field(default_factory=SupSup)
    scenario: Scenario = field(default_factory=GNu)
    training: Training = field(default_factory=Training)
    evaluate_at: tuple[int, ...] = ()
    first_task: int = 0
    seed: int = 1
    base_weights: str | None = None

    kind: ClassVar[str] = "experiment"

    def __post_init__(self) -> None:
        parts = Path(self.name).parts
        if not parts or Path(self.name).is_absolute() or ".." in parts or not self.name.isprintable():
            raise ArgumentError("name", repr(self.name), "must name a folder for results, such as mine/supsup")
        check_count("seed", self.seed, lowest=0)
        check_count("first_task", self.first_task, lowest=0)
        for count in self.evaluate_at:
            check_count("evaluate_at", count)
        if self.base_weights is not None:
            object.__setattr__(self, "base_weights", os.path.abspath(os.path.expanduser(self.base_weights)))
        self.method.check(self.network)
        self._check_scenario()

    def _check_scenario(self) -> None:
        """Check that scenario, method, network and tasks fit together.

        Raises:
            UserError: if they do not.
        """
        scenario, method = self.scenario, self.method
        search: Any = getattr(scenario, "search", None)
        superposes_masks = method.has_masks and "OneShot" in method.searches
        if scenario.discovers and (not superposes_masks or method.in_turn(1)):
            raise UserError(f"scenario {type(scenario).__name__} needs method SupSup, not {type(method).__name__}")
        if scenario.discovers and not isinstance(search, OneShot):
            raise UserError(f"scenario {type(scenario).__name__} needs search OneShot or Binary")
        if search is not None and not search.serves(method):
            known = {name_of("search", kind): kind() for kind in (OneShot, Binary, Exhaustive, Descent, Recovery)}
            others = [f"search {name}" for name, other in known.items() if other.serves(method)]
            raise UserError(
                f"search {name_of('search', search)} does not serve method {type(method).__name__}; give "
                f"{' or '.join([*others, 'scenario GG'])}"
            )
        if not scenario.infers and method.recovers:
            raise UserError(f"method {type(method).__name__} recovers masks from a memory; give scenario GNu or GNs")
        if self.network.uses_batch and scenario.infers and not method.recovers:
            raise UserError(f"network {type(self.network).__name__} needs whole batches of one task; give scenario GG")
        if self.network.sync_bn and not self.shares_batches:
            raise ArgumentError("sync_bn", True, "needs tasks whose batches are shared by devices, as of SplitImageNet")
        if self.network.affine and method.has_masks:
            raise ArgumentError("affine", True, "gains and biases have no masks; choose a different method")
        if self.shares_batches and (scenario.infers or not method.trains_params):
            raise UserError(f"tasks on disk need scenario GG, and a different method than {type(method).__name__}")
        if self.shares_batches and any(len(method.phases(task)) > 1 for task in range(self.num_tasks)):
            raise UserError(f"tasks on disk need a method with a single phase, unlike {type(method).__name__}")
        if self.first_task and (scenario.infers or self.has_dependent_tasks):
            problem = f"tasks of {type(method).__name__} in scenario {type(scenario).__name__} need the earlier ones"
            apart = "" if self.has_dependent_tasks else ", or give scenario GG and infer tasks afterwards"
            raise ArgumentError("first_task", self.first_task, f"{problem}; begin with task 0{apart}")

    @property
    def num_tasks(self) -> int:
        """The number of tasks to learn."""
        return self.tasks.num_tasks or 1

    @property
    def evaluations(self) -> list[int]:
        """The numbers of learned tasks after which to evaluate, in ascending order."""
        return sorted({count for count in self.evaluate_at if count < self.num_tasks} | {self.num_tasks})

    @property
    def shares_batches(self) -> bool:
        """Whether all devices share the batches of one task; otherwise each device learns separate tasks."""
        return self.tasks.source.on_disk

    @property
    def in_turn(self) -> bool:
        """Whether every task needs the carry of the task before it."""
        return self.scenario.discovers or self.method.in_turn(1)

    @property
    def has_dependent_tasks(self) -> bool:
        """Whether a task depends on earlier ones, by a carry or by base weights that the first task trains."""
        return self.in_turn or self.method.in_turn(0)

    def build(self, dataset: Dataset) -> Parts:
        """Bind the parts to a data set.

        Raises:
            UserError: if the network does not fit the data set.
        """
        self.tasks.check(dataset)
        benchmark = self.tasks.bind(dataset)
        if benchmark.max_tasks is not None and self.first_task + self.num_tasks > benchmark.max_tasks:
            first = f" from task {self.first_task}" if self.first_task else ""
            problem = f"there are {benchmark.max_tasks} tasks{first and ', and this begins' + first}"
            raise ArgumentError("num_tasks", self.num_tasks, problem)
        net = self.network.for_images(dataset.image_shape)
        if (outputs := net.num_outputs) < benchmark.num_classes:
            raise self._wrong_outputs(outputs, f"must be at least the {benchmark.num_classes} classes of a task")
        search: Any = getattr(self.scenario, "search", None)
        objective = getattr(search, "objective", None)
        if isinstance(objective, superfluous) and outputs == benchmark.num_classes:
            problem = f"objective superfluous needs more outputs than the {outputs} for classes"
            raise self._wrong_outputs(outputs, problem)
        size = benchmark.train_size
        return Parts(
            net,
            self.method.for_network(net),
            benchmark,
            *self.training.optimizers(size),
            self.training.steps_of(size),
            self.scenario.protocol(benchmark.num_classes, benchmark.test_size),
        )

    def _wrong_outputs(self, outputs: int, problem: str) -> UserError:
        """Return an error about the number of outputs, which custom networks need not name `features`."""
        if hasattr(self.network, "features"):
            return ArgumentError("features", outputs, problem)
        return UserError(f"network {type(self.network).__name__} has {outputs} outputs: {problem}")

    def densities(self, dataset: Dataset) -> dict[str, float]:
        """Return the fraction of weights that the masks of each layer keep; empty if it is not fixed."""
        weights, _ = jax.eval_shape(self.network.for_images(dataset.image_shape).init, numerics.key(0))
        leaves = jax.tree_util.tree_leaves_with_path(self.method.densities(weights))
        return {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): density for path, density in leaves}
