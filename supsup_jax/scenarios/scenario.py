"""The scenarios (Table 1 of the paper): whether the task is known in training, and in inference."""

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
    """Base class of scenarios, frozen dataclasses with at least this field.

    Attributes:
        test_batch_size: images of a test batch.
    """

    kind: ClassVar[str] = "scenario"

    infers: ClassVar[bool] = True
    """Whether the task of a test image has to be inferred."""

    discovers: ClassVar[bool] = False
    """Whether task boundaries are not told in training."""

    shares_labels: ClassVar[bool] = False
    """Whether an answer is right if its label is, whichever task was inferred."""

    test_batch_size: int

    def __post_init__(self) -> None:
        check_counts(self, "test_batch_size")

    @abstractmethod
    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """The protocol of evaluations.

        Args:
            num_classes: outputs that stand for classes.
            test_size: test images of a task.
        """

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learns the tasks that are missing, a chunk at a time; by default their boundaries are given.

        Yields:
            A chunk of tasks; if one of them diverges, those before it.

        Raises:
            UserError: if a task diverges.
        """
        return given.learn(work)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluates the first tasks, in parts of some seconds.

        Args:
            work: the tasks.
            snapshot: what was learned of them.
            num_tasks: how many there are to infer from.
            first: the first one to evaluate; those before it were evaluated already.

        Yields:
            Some tasks each, in order.
        """
        return given.evaluate(work, snapshot, num_tasks, first)

    def can_evaluate(self, method: Method, num_tasks: int, num_learned: int) -> bool:
        """Whether the first tasks can still be evaluated as when no more were learned.

        Args:
            method: how tasks are learned.
            num_tasks: how many tasks are to be evaluated.
            num_learned: how many are learned by now.
        """
        later = range(num_tasks, num_learned)
        return not later or (method.bank_grows and not any(method.trains_weights(task) for task in later))


@dataclass(frozen=True)
class GG(Scenario):
    """The task is Given in training and Given in inference.

    Attributes:
        test_batch_size: images of a test batch.
    """

    infers: ClassVar[bool] = False

    test_batch_size: int = 128

    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """The task is always given."""
        return Protocol(None, self.test_batch_size, images_per_task=min(64, test_size))

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learns a task on all devices if its images are on disk."""
        return shared.learn(work) if work.shares_batches else given.learn(work)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluates a task on all devices if its images are on disk."""
        return (shared if work.shares_batches else given).evaluate(work, snapshot, num_tasks, first)


@dataclass(frozen=True)
class _Inferred(Scenario):
    """Scenarios in which tasks are inferred.

    Attributes:
        search: how the task is inferred.
        test_batch_size: images of a test batch, all of one task.
        images_per_pick: images of a test batch from which its task is inferred: the first, or all.
        images_per_task: test images of a task for which the task is inferred image by image as well.
    """

    search: Search | Recovery = field(default_factory=OneShot)
    test_batch_size: int = 128
    images_per_pick: int = 1
    images_per_task: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "images_per_pick", "images_per_task")
        if self.images_per_pick > self.test_batch_size:
            problem = f"more than a test batch has; give at most {self.test_batch_size}"
            raise ArgumentError("images_per_pick", self.images_per_pick, problem)

    def protocol(self, num_classes: int, test_size: int) -> Protocol:
        """The task is inferred by the search."""
        return Protocol(
            self.search.for_classes(num_classes),
            self.test_batch_size,
            self.images_per_pick,
            min(self.images_per_task, test_size),
            shared_labels=self.shares_labels,
        )


@dataclass(frozen=True)
class GNu(_Inferred):
    """The task is Given in training and Not in inference; labels are unshared: a wrong task gives a wrong answer."""


@dataclass(frozen=True)
class GNs(_Inferred):
    """The task is Given in training and Not in inference; labels are shared: an answer is right if its label is."""

    shares_labels: ClassVar[bool] = True


@dataclass(frozen=True)
class NNs(_Inferred):
    """The task is Not given in training, and Not in inference; labels are shared (Section 3.4).

    Attributes:
        check_every: batches from one check for a new task to the next.
        check_epochs: whether to check at the first batch of each epoch as well, as the original does. A task begins
            there, and with a later check the mask in use may have adapted to the new task, so that two tasks share it.
        novelty: a task is new if no mask is that many times likelier than the mean of all.
        fewest_masks: masks that are superposed at least, random ones among them.
        most_masks: masks that may be learned; batches of further tasks are skipped.
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
            problem = f"more than there may be; give at most most_masks, {self.most_masks}"
            raise ArgumentError("fewest_masks", self.fewest_masks, problem)

    def rule(self, objective: Objective) -> Rule:
        """When a task is new.

        Args:
            objective: its derivatives say how well each mask fits.
        """
        return Rule(self.check_every, self.novelty, self.fewest_masks, self.most_masks, objective)

    def learner(self, net: Network, method: Method, optimizer: Optimizer, seed: int) -> Learner:
        """The learner of a stream, for networks, methods and optimizers that fit it."""
        assert isinstance(self.search, Search)
        return Learner(net, method, optimizer, self.rule(self.search.objective), seed)

    def learn(self, work: Work) -> Iterator[Results | StreamResults]:
        """Learns from a stream of tasks whose boundaries are not told."""
        search = work.parts.protocol.infer
        assert isinstance(search, Search)
        return stream.learn(work, self.rule(search.objective), self.check_epochs)

    def evaluate(self, work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
        """Evaluates the first tasks with the masks that were discovered."""
        return stream.evaluate(work, snapshot, num_tasks, first)

    def can_evaluate(self, method: Method, num_tasks: int, num_learned: int) -> bool:
        """Only before later tasks come: they may train the same masks further."""
        return num_tasks == num_learned
