"""Everything that decides what a run computes, in one frozen dataclass."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from supsup_jax import inference, methods, networks
from supsup_jax.data import Benchmark, Dataset, PermutedMNIST, RotatedMNIST, SplitMNIST
from supsup_jax.discovery import Rule
from supsup_jax.errors import UserError
from supsup_jax.evaluation import Protocol
from supsup_jax.optimizers import SGD, Adam, Optimizer, RMSprop
from supsup_jax.recovery import Recovery

_NETWORKS = {"LeNet": networks.LeNet, "FC1024": networks.FC1024, "BNNet": networks.BNNet}
_INITIALIZERS = {
    "signed_constant": networks.signed_constant,
    "kaiming_normal": networks.kaiming_normal,
    "xavier_normal": networks.xavier_normal,
}
_METHODS = {
    "SupSup": methods.SupSup,
    "BatchE": methods.BatchE,
    "PSP": methods.PSP,
    "UpperBound": methods.UpperBound,
    "LowerBound": methods.LowerBound,
    "HopSupSup": methods.HopSupSup,
}
_SEARCHES = {"one_shot": inference.one_shot, "binary": inference.binary, "exhaustive": inference.exhaustive}


class Parts(NamedTuple):
    """What an experiment is made of, over a given data set."""

    net: networks.Network
    method: methods.Method
    benchmark: Benchmark
    optimizer: Optimizer
    weights_optimizer: Optimizer
    protocol: Protocol
    rule: Rule


@dataclass(frozen=True)
class Experiment:
    """A run's settings: with the same ones, a run gives the same numbers.

    Raises:
        UserError: if a setting is out of its range.
    """

    name: str
    """Where results lie below the log directory; that of the script."""

    dataset: Literal["mnist", "digits"] = "mnist"
    """Data set that tasks are made of: MNIST (28 x 28), or scikit-learn's digits (8 x 8, embedded)."""

    benchmark: Literal["PermutedMNIST", "RotatedMNIST", "SplitMNIST"] = "PermutedMNIST"
    """What makes tasks of it: another order of the pixels, another angle, or another two classes."""

    method: Literal["SupSup", "BatchE", "PSP", "UpperBound", "LowerBound", "HopSupSup"] = "SupSup"
    """How tasks are learned in one network; UpperBound gives each a network, LowerBound trains one on all in turn."""

    network: Literal["LeNet", "FC1024", "BNNet"] = "LeNet"
    """Network: inputs-300-100-features, inputs-1024-1024-features, or inputs-2048-2048-features with batch norm."""

    features: int = 100
    """Outputs of the network; those beyond the classes are the superfluous neurons."""

    width: float = 1.0
    """Multiplies the sizes of hidden layers."""

    initializer: Literal["signed_constant", "kaiming_normal", "xavier_normal"] = "signed_constant"
    """How the weights are drawn."""

    scenario: Literal["GG", "GNu", "GNs", "NNs"] = "GNu"
    """Whether task identity is Given or Not in training, and in inference; u: a wrong task cannot give a right answer,
    s: an answer is right if its label is."""

    check_every: int = 100
    """NNs: batches from one check for a new task to the next."""

    check_epochs: bool = True
    """NNs: whether to check at the first batch of each epoch too, as the original does."""

    novelty: float = 1.125
    """NNs: a task is new if no mask is that many times likelier than all of them are on average."""

    fewest_masks: int = 5
    """NNs: masks that are superposed at least, random ones among them."""

    most_masks: int = 2500
    """NNs: masks that may be learned; batches of further tasks are skipped."""

    num_tasks: int = 250
    """Tasks to learn, one after another."""

    steps: int = 1000
    """Updates a task."""

    batch_size: int = 128
    """Images an update."""

    test_batch_size: int = 128
    """Images a batch of the evaluation."""

    optimizer: Literal["RMSprop", "Adam", "SGD"] = "RMSprop"
    """Optimiser, a new one for every task."""

    learning_rate: float = 1e-4
    """Step size for what a task owns."""

    weights_learning_rate: float = 1e-4
    """Step size, for all that is learned, with tasks that train the shared weights."""

    weight_decay: float = 1e-4
    """Times what is trained, added to its gradient; RMSprop has none."""

    momentum: float = 0.9
    """Momentum of SGD."""

    objective: Literal["entropy", "superfluous", "maximum"] = "entropy"
    """What task inference makes small: H, the entropy; G, from the superfluous neurons; for the exhaustive search
    also the largest probability times -1."""

    search: Literal["one_shot", "binary", "exhaustive", "recovery"] = "one_shot"
    """How task inference searches: one gradient; rounds that each keep the better half; every task tried; a mask
    recovered from HopSupSup's memory."""

    gamma: float = 1.5e-3
    """Weight of the memory's energy in a recovery."""

    recovery_learning_rate: float = 500.0
    """Step size of a recovery, with the momentum and the weight decay above."""

    through_memory: bool = False
    """Whether a recovery moves along stored masks only; not the original's way, and surer."""

    attempts: int = 1
    """Masks that a recovery finds, one after another; the one with the least entropy is taken."""

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
            elif field.name in ("weight_decay", "momentum"):
                if not 0 <= value < math.inf:
                    raise UserError(f"{option} {value} is out of range; give a number from 0")
            elif isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < math.inf:
                raise UserError(f"{option} {value} is out of range; give a number above 0")
        if any(count < 1 for count in self.eval_at):
            raise UserError("--eval-at takes numbers of tasks, from 1")
        if self.images_per_pick > self.test_batch_size:
            raise UserError(
                f"--images-per-pick {self.images_per_pick} is more than a test batch has; give at most "
                f"{self.test_batch_size}"
            )
        if (self.search == "recovery" and self.scenario in ("GNu", "GNs")) != (self.method == "HopSupSup"):
            raise UserError("--method HopSupSup and --search recovery need each other, and --scenario GNu or GNs")
        if self.method == "HopSupSup" and self.network != "BNNet":
            raise UserError(f"--method HopSupSup needs the gains of --network BNNet; {self.network} has none")
        if self.network == "BNNet" and self.scenario != "GG" and self.method != "HopSupSup":
            raise UserError("--network BNNet needs whole batches of one task: --method HopSupSup, or --scenario GG")
        if self.scenario != "GG" and self.search in ("one_shot", "binary") and self.method != "SupSup":
            raise UserError(
                f"--search {self.search} needs the masks of --method SupSup; for {self.method} try --search exhaustive "
                "or --scenario GG"
            )
        if self.scenario == "NNs" and (self.method != "SupSup" or self.search not in ("one_shot", "binary")):
            raise UserError("--scenario NNs needs --method SupSup, and --search one_shot or binary")
        if self.method == "LowerBound" and self.scenario != "GG":
            raise UserError("--method LowerBound has one network for all tasks: nothing to infer; use --scenario GG")
        if self.scenario != "GG" and self.objective == "maximum" and self.search != "exhaustive":
            raise UserError(f"--objective maximum is for --search exhaustive; {self.search} takes entropy")

    @property
    def evaluations(self) -> list[int]:
        """The numbers of tasks learned after which to evaluate, in order."""
        return sorted({count for count in self.eval_at if count < self.num_tasks} | {self.num_tasks})

    @property
    def in_turn(self) -> bool:
        """Whether every task needs what the one before it has left."""
        return self.scenario == "NNs" or _METHODS[self.method]().trains_weights(1)

    def build(self, dataset: Dataset) -> Parts:
        """The network, method, benchmark, optimiser and protocol of evaluation over a data set.

        Raises:
            UserError: if the network does not fit the data set.
        """
        benchmark = self._benchmark(dataset)
        if benchmark.max_tasks is not None and self.num_tasks > benchmark.max_tasks:
            raise UserError(f"--num-tasks {self.num_tasks} is more than {self.benchmark} has: {benchmark.max_tasks}")
        if self.features < benchmark.num_classes:
            raise UserError(f"--features {self.features} is less than the {benchmark.num_classes} classes")
        if self.scenario != "GG" and self.objective == "superfluous" and self.features == benchmark.num_classes:
            raise UserError(f"--objective superfluous needs --features above the {benchmark.num_classes} classes")
        if int(self.width * 100) < 1:
            raise UserError(f"--width {self.width} leaves a layer without units; give at least 0.01")
        net = _NETWORKS[self.network](self.features, self.width, dataset.image_shape, _INITIALIZERS[self.initializer])
        objectives = {
            "entropy": inference.entropy,
            "superfluous": inference.superfluous(benchmark.num_classes),
            "maximum": inference.maximum,
        }
        infer = None
        if self.method == "HopSupSup":
            optimizer = SGD(self.recovery_learning_rate, self.momentum, self.weight_decay)
            infer = Recovery(self.gamma, optimizer, self.through_memory, self.attempts)
        elif self.scenario != "GG":
            infer = inference.Inference(_SEARCHES[self.search], objectives[self.objective])
        protocol = Protocol(
            infer,
            self.test_batch_size,
            self.images_per_pick,
            min(self.images_per_task, benchmark.test_size),
            shared_labels=self.scenario in ("GNs", "NNs"),
        )
        optimizers = self._optimizer(self.learning_rate), self._optimizer(self.weights_learning_rate)
        rule = Rule(self.check_every, self.novelty, self.fewest_masks, self.most_masks, objectives[self.objective])
        return Parts(net, _METHODS[self.method](), benchmark, *optimizers, protocol, rule)

    def _benchmark(self, dataset: Dataset) -> Benchmark:
        if self.benchmark == "RotatedMNIST":
            return RotatedMNIST.of(dataset)
        return PermutedMNIST.of(dataset) if self.benchmark == "PermutedMNIST" else SplitMNIST.of(dataset)

    def _optimizer(self, learning_rate: float) -> Optimizer:
        if self.optimizer == "RMSprop":
            return RMSprop(learning_rate)
        if self.optimizer == "Adam":
            return Adam(learning_rate, self.weight_decay)
        return SGD(learning_rate, self.momentum, self.weight_decay)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def differs_from(self, settings: dict[str, Any]) -> list[str]:
        """The settings that make another run of it, given an earlier run's; a longer run is the same run.

        What the earlier run does not name has its default: a run may be older than a setting.
        """
        before = {field.name: field.default for field in dataclasses.fields(self)} | settings
        return [
            f"{name}: {before[name]} before, {value} now"
            for name, value in self.to_json().items()
            if name not in ("num_tasks", "eval_at") and before[name] != value
        ]
