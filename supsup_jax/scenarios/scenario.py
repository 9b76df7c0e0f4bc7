"""Scenarios (Table 1 of the paper): whether the task is given in training, and in inference."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from supsup_jax.arguments import Part
from supsup_jax.checks import check_counts, check_number
from supsup_jax.errors import ArgumentError
from supsup_jax.evaluation import Protocol
from supsup_jax.inference import Objective, OneShot, Search
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import Method
from supsup_jax.networks import Network
from supsup_jax.optimizers import Optimizer
from supsup_jax.scenarios import given, shared, stream
from supsup_jax.scenarios.discovery import Learner, Rule
from supsup_jax.scenarios.work import Measured, Results, Snapshot, StreamResults, Work


class Scenario(Part, ABC):
    """Base class of scenarios; a subclass is a frozen dataclass that has at least this field.

    Attributes:
        test_batch_size: images per test batch.
    """

    kind: ClassVar[str] = "scenario"

    infers: ClassVar[bool] = True
    """Whether the task of a test image must be inferred."""

    discovers: ClassVar[bool] = False
    """Whether task boundaries are hidden in training."""

    shares_labels: ClassVar[bool] = False
    """Whether a prediction counts as correct if its label is correct, regardless of the inferred task."""

    test_batch_size: int

    def __post_init__(self) -> None:
        check_counts(self, "test_batch_size")

    @abstractmethod
    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """Return the evaluation protocol.

        Args:
            num_classes: number of outputs that represent classes.
            test_size: test images per task.
        """

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learn the remaining tasks, one chunk at a time; task boundaries are given by default.

        Yields:
            A chunk of tasks. If a task diverges, the tasks before it are yielded first.

        Raises:
            UserError: if a task diverges.
        """
        return given.learn(work)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluate the first `num_tasks` tasks in parts that take a few seconds each.

        Args:
            work: the tasks.
            snapshot: the learned tasks.
            num_tasks: number of tasks to evaluate, and to infer from.
            first: index of the first task to evaluate; the tasks before it were evaluated earlier.

        Yields:
            Results of some tasks, in order.
        """
        return given.evaluate(work, snapshot, num_tasks, first)

    def can_evaluate(self, method: Method, num_tasks: int, num_learned: int) -> bool:
        """Return whether evaluating the first tasks now gives the same result as before later tasks were learned.

        Args:
            method: the method.
            num_tasks: number of tasks to evaluate.
            num_learned: number of tasks learned so far.
        """
        later = range(num_tasks, num_learned)
        return not later or (method.bank_grows and not any(method.trains_weights(task) for task in later))


@dataclass(frozen=True)
class GG(Scenario):
    """The task is given in training and in inference.

    Attributes:
        test_batch_size: images per test batch.
    """

    infers: ClassVar[bool] = False

    test_batch_size: int = 128

    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """Return a protocol in which the task is given."""
        return Protocol(None, self.test_batch_size, images_per_task=min(64, test_size))

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learn the remaining tasks; if images are on disk, learn one task at a time on all devices."""
        return shared.learn(work) if work.shares_batches else given.learn(work)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluate tasks; if images are on disk, evaluate one task at a time on all devices."""
        return (shared if work.shares_batches else given).evaluate(work, snapshot, num_tasks, first)


@dataclass(frozen=True)
class _Inferred(Scenario):
    """Base class of scenarios in which the task is inferred.

    Attributes:
        search: search that infers the task.
        test_batch_size: images per test batch; all belong to one task.
        images_per_pick: number of images of a test batch that the task is inferred from, starting at the first one.
        images_per_task: test images per task for which the task is also inferred from each image alone.
        eval_sample: random fraction of test batches and images whose task is inferred; below 1 with a standard error.
    """

    search: Search | Recovery = field(default_factory=OneShot)
    test_batch_size: int = 128
    images_per_pick: int = 1
    images_per_task: int = 64
    eval_sample: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eval_sample <= 1:
            problem = "must be above 0 and at most 1, which evaluates everything"
            raise ArgumentError("eval_sample", self.eval_sample, problem)
        if self.eval_sample < 1 and isinstance(self.search, Recovery):
            problem = "applies to tasks that a search infers; HopSupSup recovers masks instead, leave it out"
            raise ArgumentError("eval_sample", self.eval_sample, problem)
        check_counts(self, "images_per_pick", "images_per_task")
        if self.images_per_pick > self.test_batch_size:
            problem = f"must be at most {self.test_batch_size}, the number of images per test batch"
            raise ArgumentError("images_per_pick", self.images_per_pick, problem)

    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """Return a protocol in which the search infers the task."""
        return Protocol(
            self.search.for_classes(num_classes),
            self.test_batch_size,
            self.images_per_pick,
            min(self.images_per_task, test_size),
            shared_labels=self.shares_labels,
            sample=self.eval_sample,
        )


@dataclass(frozen=True)
class GNu(_Inferred):
    """The task is given in training and not in inference; labels are unshared, so a wrong task is a wrong answer."""


@dataclass(frozen=True)
class GNs(_Inferred):
    """The task is given in training and not in inference; labels are shared, so a correct label is a correct answer."""

    shares_labels: ClassVar[bool] = True


@dataclass(frozen=True)
class NNs(_Inferred):
    """The task is given neither in training nor in inference; labels are shared (Section 3.4).

    Attributes:
        check_every: batches between two checks for a new task.
        check_epochs: whether to also check at the first batch of each epoch, as the original code does. A task starts
            at the first batch of an epoch. With a later check, the mask in use may have adapted to the new task, and
            the two tasks then share one mask.
        novelty: a task is new if no mask is this many times as likely as the mean over all masks.
        fewest_masks: minimum number of masks to superpose; random masks fill up the number.
        most_masks: maximum number of masks to learn; batches of further tasks are skipped.
    """

    discovers: ClassVar[bool] = True
    shares_labels: ClassVar[bool] = True

    check_every: int = 100
    check_epochs: bool = True
    novelty: float = 1.125
    fewest_masks: int = 5
    most_masks: int = 2500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "check_every", "fewest_masks", "most_masks")
        check_number("novelty", self.novelty)
        if self.fewest_masks > self.most_masks:
            problem = f"must be at most {self.most_masks}, the maximum number of masks"
            raise ArgumentError("fewest_masks", self.fewest_masks, problem)

    def rule(self, objective: Objective) -> Rule:
        """Return the rule that decides whether a task is new.

        Args:
            objective: objective whose derivatives measure how well each mask fits.
        """
        return Rule(self.check_every, self.novelty, self.fewest_masks, self.most_masks, objective)

    def learner(self, net: Network, method: Method, optimizer: Optimizer, seed: int) -> Learner:
        """Return the learner of a stream for a network, method and optimizer."""
        assert isinstance(self.search, Search)
        return Learner(net, method, optimizer, self.rule(self.search.objective), seed)

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learn from a stream of tasks whose boundaries are hidden."""
        search = work.parts.protocol.infer
        assert isinstance(search, Search)
        return stream.learn(work, self.rule(search.objective), self.check_epochs)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluate the first tasks with the discovered masks."""
        return stream.evaluate(work, snapshot, num_tasks, first)

    def can_evaluate(self, method: Method, num_tasks: int, num_learned: int) -> bool:
        """Return whether no later task has been learned; later tasks may train the same masks further."""
        return num_tasks == num_learned
