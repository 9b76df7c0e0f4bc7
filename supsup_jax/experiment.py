"""Everything that decides what a run computes, in one frozen dataclass."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from supsup_jax import inference, methods, networks
from supsup_jax.data import Benchmark, Dataset, PermutedMNIST
from supsup_jax.errors import UserError
from supsup_jax.evaluation import Protocol
from supsup_jax.training import RMSprop

_NETWORKS = {"LeNet": networks.LeNet, "FC1024": networks.FC1024}
_INITIALIZERS = {
    "signed_constant": networks.signed_constant,
    "kaiming_normal": networks.kaiming_normal,
    "xavier_normal": networks.xavier_normal,
}
_SEARCHES = {"one_shot": inference.one_shot, "binary": inference.binary}


class Parts(NamedTuple):
    """What an experiment is made of, over a given data set."""

    net: networks.Network
    method: methods.Method
    benchmark: Benchmark
    optimizer: RMSprop
    protocol: Protocol


@dataclass(frozen=True)
class Experiment:
    """A run's settings: with the same ones, a run gives the same numbers.

    Raises:
        UserError: if a setting is out of its range.
    """

    name: str
    """Where results lie below the log directory; that of the script."""

    dataset: Literal["mnist", "digits"] = "mnist"
    """Data set whose pixels every task permutes: MNIST (28 x 28), or scikit-learn's digits (8 x 8, embedded)."""

    network: Literal["LeNet", "FC1024"] = "LeNet"
    """Network: inputs-300-100-features, or inputs-1024-1024-features."""

    features: int = 100
    """Outputs of the network; those beyond the classes are the superfluous neurons."""

    width: float = 1.0
    """Multiplies the sizes of hidden layers."""

    initializer: Literal["signed_constant", "kaiming_normal", "xavier_normal"] = "signed_constant"
    """How the frozen weights are drawn."""

    num_tasks: int = 250
    """Tasks to learn, one after another."""

    steps: int = 1000
    """Updates a task."""

    batch_size: int = 128
    """Images an update, and images a batch of the evaluation."""

    learning_rate: float = 1e-4
    """Step size of RMSprop."""

    objective: Literal["entropy", "superfluous"] = "entropy"
    """What task inference differentiates: H, the entropy, or G, from the superfluous neurons."""

    search: Literal["one_shot", "binary"] = "one_shot"
    """How task inference searches: one gradient, or rounds that each keep the better half."""

    images_per_pick: int = 1
    """Images of a test batch from which its task is inferred: the first, or all."""

    images_per_task: int = 64
    """Test images of a task for which one by one the task is inferred as well."""

    eval_at: tuple[int, ...] = ()
    """Numbers of tasks learned after which all of them are evaluated; always after the last."""

    seed: int = 1
    """Seed of weights, scores, tasks and batches."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}"
            if field.name == "seed":
                if not 0 <= value < 2**31:
                    raise UserError(f"{option} {value} is out of range; give a number from 0 to 2147483647")
            elif isinstance(value, int | float) and not 0 < value < math.inf:
                raise UserError(f"{option} {value} is out of range; give a number above 0")
        if any(count < 1 for count in self.eval_at):
            raise UserError("--eval-at takes numbers of tasks, from 1")
        if self.images_per_pick > self.batch_size:
            raise UserError(
                f"--images-per-pick {self.images_per_pick} is more than a batch has; give at most {self.batch_size}"
            )

    @property
    def evaluations(self) -> list[int]:
        """The numbers of tasks learned after which to evaluate, in order."""
        return sorted({count for count in self.eval_at if count < self.num_tasks} | {self.num_tasks})

    def build(self, dataset: Dataset) -> Parts:
        """The network, method, benchmark, optimiser and protocol of evaluation over a data set.

        Raises:
            UserError: if the network does not fit the data set.
        """
        benchmark = PermutedMNIST.of(dataset)
        if self.features < benchmark.num_classes:
            raise UserError(f"--features {self.features} is less than the {benchmark.num_classes} classes")
        if self.objective == "superfluous" and self.features == benchmark.num_classes:
            raise UserError(f"--objective superfluous needs --features above the {benchmark.num_classes} classes")
        if int(self.width * 100) < 1:
            raise UserError(f"--width {self.width} leaves a layer without units; give at least 0.01")
        net = _NETWORKS[self.network](self.features, self.width, dataset.image_shape, _INITIALIZERS[self.initializer])
        objective = inference.entropy if self.objective == "entropy" else inference.superfluous(benchmark.num_classes)
        protocol = Protocol(
            inference.Inference(_SEARCHES[self.search], objective),
            self.batch_size,
            self.images_per_pick,
            min(self.images_per_task, benchmark.test_size),
        )
        return Parts(net, methods.SupSup(), benchmark, RMSprop(self.learning_rate), protocol)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def differs_from(self, settings: dict[str, Any]) -> list[str]:
        """The settings that make another run of it, given an earlier run's; a longer run is the same run."""
        return [
            f"{name}: {settings.get(name)} before, {value} now"
            for name, value in self.to_json().items()
            if name not in ("num_tasks", "eval_at") and settings.get(name) != value
        ]
