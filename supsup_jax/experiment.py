"""Everything that decides what a run computes, in one frozen dataclass."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from supsup_jax import inference, masks, methods, networks
from supsup_jax.data import (
    Benchmark,
    Dataset,
    OwnTasks,
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR100,
    SplitImageNet,
    SplitMNIST,
)
from supsup_jax.discovery import Rule
from supsup_jax.errors import UserError
from supsup_jax.evaluation import Protocol
from supsup_jax.inference import Binary, Exhaustive, OneShot, Search
from supsup_jax.inference.recovery import Recovery
from supsup_jax.optimizers import SGD, Adam, Cosine, Optimizer, RMSprop, Schedule, Warmup

# What arrays of 32 bits can hold, in which all is computed.
_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = {int: 2**31 - 1, float: float(np.finfo(np.float32).max)}

_IMAGENET_RESNETS = {
    "ResNet18": networks.ResNet18,
    "ResNet50": networks.ResNet50,
    "ResNet101": networks.ResNet101,
}
_RESNETS = {"GEMResNet18": networks.GEMResNet18} | _IMAGENET_RESNETS
NETWORKS = {"LeNet": networks.LeNet, "FC1024": networks.FC1024, "BNNet": networks.BNNet} | _RESNETS
_BENCHMARKS = {
    "PermutedMNIST": PermutedMNIST,
    "RotatedMNIST": RotatedMNIST,
    "SplitMNIST": SplitMNIST,
    "SplitCIFAR100": SplitCIFAR100,
    "SplitImageNet": SplitImageNet,
    "own": OwnTasks,
}


def search_by(search: str, objective: str, num_classes: int, log_base: int = 2) -> Search:
    """A search and its objective by their names, for networks whose first `num_classes` outputs stand for classes."""
    makers = {"one_shot": OneShot, "binary": partial(Binary, base=log_base), "exhaustive": Exhaustive}
    return makers[search](_objective(objective, num_classes))


def _objective(name: str, num_classes: int) -> inference.Objective:
    objectives = {
        "entropy": inference.entropy,
        "superfluous": inference.superfluous(num_classes),
        "maximum": inference.maximum,
    }
    return objectives[name]


class Parts(NamedTuple):
    """What an experiment is made of, over a given data set."""

    net: networks.Network
    method: methods.Method
    benchmark: Benchmark
    optimizer: Optimizer
    weights_optimizer: Optimizer
    steps: int
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

    dataset: Literal["mnist", "cifar100", "imagenet", "digits", "own"] = "mnist"
    """Data set that tasks are made of: MNIST (28 x 28), CIFAR-100, ImageNet, or scikit-learn's digits (8 x 8,
    embedded); own: arrays that Python code hands in."""

    benchmark: Literal["PermutedMNIST", "RotatedMNIST", "SplitMNIST", "SplitCIFAR100", "SplitImageNet", "own"] = (
        "PermutedMNIST"
    )
    """What makes tasks of it: another order of the pixels, another angle, another two classes, another five of an
    order that the seed draws, or another ten of ImageNet's; own: every task is a data set of its own."""

    method: Literal[
        "SupSup", "Transfer", "BatchE", "PSP", "SeparateHeads", "FineTuning", "UpperBound", "LowerBound", "HopSupSup"
    ] = "SupSup"
    """How tasks are learned in one network. FineTuning trains it on from task to task with a new head for each, which
    gives both bounds; UpperBound gives each task a network of its own, LowerBound trains one with one head on all."""

    network: Literal["LeNet", "FC1024", "BNNet", "GEMResNet18", "ResNet18", "ResNet50", "ResNet101", "own"] = "LeNet"
    """Network: inputs-300-100-features, inputs-1024-1024-features, inputs-2048-2048-features with batch norm, a narrow
    ResNet-18 for small images, or ImageNet's ResNets; own: one that Python code hands in."""

    features: int = 100
    """Outputs of the network; those beyond the classes are the superfluous neurons."""

    width: float = 1.0
    """Multiplies the sizes of hidden layers."""

    affine: bool = False
    """ResNets: whether their batch norm has gains and biases."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """ImageNet's ResNets: type of the activations; scores, weights and statistics are float32."""

    sync_bn: bool = False
    """SplitImageNet: whether batch norm takes its statistics of the whole batch, where several devices share it."""

    image_size: int = 224
    """SplitImageNet: height and width of the images that the network sees."""

    cache_size: int | None = None
    """SplitImageNet: shorter side to which images are reduced once, before training cuts out of them; by default
    256/224 of --image-size."""

    initializer: Literal[
        "signed_constant",
        "unsigned_constant",
        "kaiming_normal",
        "kaiming_uniform",
        "pytorch_default",
        "xavier_constant",
        "xavier_normal",
        "glorot_uniform",
        "stored",
    ] = "signed_constant"
    """How the weights are drawn: the original's names, whose `default` is pytorch_default here; stored: they lie in the
    checkpoints of a run that was imported."""

    random_weights: bool = False
    """BatchE, SeparateHeads: whether the shared weights are never trained ("Rand W")."""

    fine_tunes: bool = False
    """UpperBound: whether a task starts from the last one's network, as in the paper's curve of SplitCIFAR100."""

    er_scale: float | None = None
    """SupSup: a layer of O outputs and I inputs keeps the fraction min(0.5, s (O + I) / (O I kh kw)) of its weights,
    those with the largest scores by magnitude; more is denser. By default those with scores of at least 0."""

    density: float | None = None
    """SupSup: the fraction of its weights that every layer keeps, those with the largest scores by magnitude."""

    scenario: Literal["GG", "GNu", "GNs", "NNs"] = "GNu"
    """Whether task identity is Given or Not in training, and in inference; u: a wrong task cannot give a right answer,
    s: an answer is right if its label is."""

    check_every: int = 100
    """NNs: batches from one check for a new task to the next."""

    check_epochs: bool = True
    """NNs: whether to check at the first batch of each epoch too, as the original does. There a new task begins, so it
    helps: where the next check comes late, the mask in use may have adapted to the new task, and two tasks share it."""

    novelty: float = 1.125
    """NNs: a task is new if no mask is that many times likelier than all of them are on average."""

    fewest_masks: int = 5
    """NNs: masks that are superposed at least, random ones among them."""

    most_masks: int = 2500
    """NNs: masks that may be learned; batches of further tasks are skipped."""

    num_tasks: int = 250
    """Tasks to learn, one after another."""

    first_task: int = 0
    """Scenario GG: the task to begin with."""

    steps: int = 1000
    """Updates a task."""

    epochs: int | None = None
    """Passes over a task's training images, in place of --steps; the last batch of each counts as a whole one."""

    schedule: Literal["constant", "cosine"] = "constant"
    """The step sizes over a task's updates; the cosine is stepped once an epoch."""

    warmup_epochs: int = 0
    """Epochs over which the step size grows linearly, before it stays or --schedule cosine takes it down."""

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

    log_base: int = 2
    """The binary search keeps the best 1/log_base of the tasks in every round."""

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
        parts = Path(self.name).parts
        if not parts or Path(self.name).is_absolute() or ".." in parts or not self.name.isprintable():
            raise UserError(f"--name {self.name!r} is no name of a folder for results; give one such as mine/supsup")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}"
            if field.name == "seed":
                if not 0 <= value < 2**31:
                    raise UserError(f"{option} {value} is out of range; give a number from 0 to 2147483647")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                from_0 = field.name in ("weight_decay", "momentum", "warmup_epochs", "first_task")
                largest = _LARGEST[int if isinstance(value, int) else float]
                if not (_SMALLEST <= value <= largest or (from_0 and value == 0)):
                    lowest = "from 0" if from_0 else "above 0"
                    raise UserError(f"{option} {value} is out of range; give a number {lowest} that fits in 32 bits")
        if self.width * 2048 > _LARGEST[int]:
            raise UserError(f"--width {self.width} is out of range; give at most 1000000")
        if self.scenario == "NNs" and self.fewest_masks > self.most_masks:
            raise UserError(
                f"--fewest-masks {self.fewest_masks} is more than there may be; give at most --most-masks "
                f"{self.most_masks}"
            )
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
        masked = self.method in ("SupSup", "Transfer")
        for option, value in (("sparsity", self.er_scale), ("density", self.density)):
            if value is not None and not masked:
                raise UserError(f"--{option} is for --method SupSup or Transfer; {self.method} has no such masks")
        if self.density is not None and self.er_scale is not None:
            raise UserError(f"--density {self.density:g} and --sparsity both say what masks keep; give one of them")
        if self.density is not None and self.density > 1:
            raise UserError(f"--density {self.density:g} is out of range; give a fraction above 0, at most 1")
        if self.affine and (self.network not in _RESNETS or masked):
            raise UserError("--affine is for ResNets, and not with the masks of --method SupSup or Transfer")
        if self.dtype != "float32" and self.network not in _IMAGENET_RESNETS:
            raise UserError(f"--dtype {self.dtype} is for --network ResNet18, ResNet50 or ResNet101")
        if self.sync_bn and self.network not in _IMAGENET_RESNETS:
            raise UserError("--sync-bn is for --network ResNet18, ResNet50 or ResNet101")
        if (self.dataset == "imagenet") != (self.benchmark == "SplitImageNet"):
            raise UserError("--dataset imagenet and --benchmark SplitImageNet need each other")
        if (self.dataset == "own") != (self.benchmark == "own"):
            raise UserError("--dataset own and --benchmark own need each other")
        if self.shares_batches and (self.scenario != "GG" or self.method == "PSP"):
            raise UserError("--dataset imagenet needs --scenario GG, and another method than PSP")
        if self.sync_bn and not self.shares_batches:
            raise UserError("--sync-bn is for --dataset imagenet, where devices share batches")
        if self.first_task and (self.scenario != "GG" or self.make_method("").in_turn(0) or self.in_turn):
            raise UserError(
                f"--first-task {self.first_task}: tasks of {self.method} in scenario {self.scenario} need those before "
                "them; begin with task 0"
            )
        if self.random_weights and self.method not in ("BatchE", "SeparateHeads"):
            raise UserError(f"--random-weights is for --method BatchE or SeparateHeads, not {self.method}")
        if self.fine_tunes and self.method != "UpperBound":
            raise UserError(f"--fine-tunes is for --method UpperBound, not {self.method}")
        if self.scenario != "GG" and self.search in ("one_shot", "binary") and not masked:
            raise UserError(
                f"--search {self.search} needs the masks of --method SupSup; for {self.method} try --search exhaustive "
                "or --scenario GG"
            )
        if self.scenario == "NNs" and (self.method != "SupSup" or self.search not in ("one_shot", "binary")):
            raise UserError("--scenario NNs needs --method SupSup, and --search one_shot or binary")
        if self.method == "LowerBound" and self.scenario != "GG":
            raise UserError("--method LowerBound has one network for all tasks: nothing to infer; use --scenario GG")
        if self.log_base < 2:
            raise UserError(f"--log-base {self.log_base} is out of range; give at least 2")
        if self.scenario != "GG" and self.objective == "maximum" and self.search != "exhaustive":
            raise UserError(f"--objective maximum is for --search exhaustive; {self.search} takes entropy")

    @property
    def evaluations(self) -> list[int]:
        """The numbers of tasks learned after which to evaluate, in order."""
        return sorted({count for count in self.eval_at if count < self.num_tasks} | {self.num_tasks})

    @property
    def shorter_side(self) -> int:
        """The shorter side to which the images of SplitImageNet are reduced."""
        return self.cache_size or round(self.image_size * 256 / 224)

    @property
    def keeps_largest(self) -> bool:
        """Whether a mask keeps a number of weights, those with the largest scores; else those with scores above 0."""
        return self.er_scale is not None or self.density is not None

    @property
    def shares_batches(self) -> bool:
        """Whether a task takes all devices, which share its batches; else each device has tasks of its own."""
        return self.dataset == "imagenet"

    @property
    def in_turn(self) -> bool:
        """Whether every task needs what the one before it has left."""
        return self.scenario == "NNs" or self.make_method("").in_turn(1)

    def build(self, dataset: Dataset, net: networks.Network | None = None) -> Parts:
        """The network, method, benchmark, optimiser and protocol of evaluation over a data set.

        Args:
            dataset: the data set.
            net: the network, where it is one's own.

        Raises:
            UserError: if the network does not fit the data set.
        """
        benchmark = _BENCHMARKS[self.benchmark].of(dataset)
        if benchmark.max_tasks is not None and self.first_task + self.num_tasks > benchmark.max_tasks:
            first = f" from task {self.first_task}" if self.first_task else ""
            raise UserError(
                f"--num-tasks {self.num_tasks}{first} is more than {self.benchmark} has: {benchmark.max_tasks}"
            )
        if self.features < benchmark.num_classes:
            raise UserError(f"--features {self.features} is less than the {benchmark.num_classes} classes")
        if self.scenario != "GG" and self.objective == "superfluous" and self.features == benchmark.num_classes:
            raise UserError(f"--objective superfluous needs --features above the {benchmark.num_classes} classes")
        narrowest = 20 if self.network == "GEMResNet18" else 64 if self.network in _IMAGENET_RESNETS else 100
        if int(self.width * narrowest) < 1:
            raise UserError(f"--width {self.width} leaves a layer without units; give at least {1 / narrowest}")
        net = net or self.make_network(dataset.image_shape)
        protocol = Protocol(
            self.make_inference(benchmark.num_classes),
            self.test_batch_size,
            self.images_per_pick,
            min(self.images_per_task, benchmark.test_size),
            shared_labels=self.scenario in ("GNs", "NNs"),
        )
        per_epoch = -(-benchmark.train_size // self.batch_size)
        steps = self.steps if self.epochs is None else self.epochs * per_epoch
        if steps * self.batch_size > _LARGEST[int]:
            raise UserError(
                f"{steps} updates with --batch-size {self.batch_size} are too many for one task; give fewer --steps, "
                "--epochs or a smaller --batch-size"
            )
        epochs = -(-steps // per_epoch)
        if self.warmup_epochs >= epochs:
            raise UserError(f"--warmup-epochs {self.warmup_epochs} leaves none of {epochs} epochs for the rest")
        schedule = Warmup(self.warmup_epochs, per_epoch) if self.warmup_epochs else None
        if self.schedule == "cosine":
            schedule = Cosine(epochs, per_epoch, self.warmup_epochs)
        optimizer, weights_optimizer = (
            self.make_optimizer(rate, schedule) for rate in (self.learning_rate, self.weights_learning_rate)
        )
        objective = _objective(self.objective, benchmark.num_classes)
        rule = Rule(self.check_every, self.novelty, self.fewest_masks, self.most_masks, objective)
        return Parts(net, self.make_method(net.head), benchmark, optimizer, weights_optimizer, steps, protocol, rule)

    def densities(self, dataset: Dataset) -> dict[str, float]:
        """The fraction of its weights that each layer's masks keep; nothing where masks are not of a fixed density."""
        if not self.keeps_largest:
            return {}
        weights, _ = jax.eval_shape(self.make_network(dataset.image_shape).init, jax.random.key(0))
        each = jax.tree.map(lambda _: self.density, weights)
        if self.er_scale is not None:
            each = masks.erdos_renyi(weights, self.er_scale)
        leaves = jax.tree_util.tree_leaves_with_path(each)
        return {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): density for path, density in leaves}

    def make_network(self, image_shape: tuple[int, ...]) -> networks.Network:
        """The network for images of a shape.

        Raises:
            UserError: if it is one's own.
        """
        if self.network == "own":
            raise UserError("--network own is for Python code, which hands it in; give the name of a network")
        settings: dict[str, Any] = {
            "width": self.width,
            "input_shape": image_shape,
            # Where the weights are stored, their shapes alone are used.
            "initializer": "signed_constant" if self.initializer == "stored" else self.initializer,
        }
        if self.network in _RESNETS:
            settings |= {"affine": self.affine}
        if self.network in _IMAGENET_RESNETS:
            settings |= {"dtype": self.dtype, "sync_bn": self.sync_bn}
        return NETWORKS[self.network](self.features, **settings)

    def make_inference(self, num_classes: int) -> Search | Recovery | None:
        """How the task of an image is inferred, by networks whose first outputs stand for so many classes, if it is."""
        if self.method == "HopSupSup":
            optimizer = SGD(self.recovery_learning_rate, self.momentum, self.weight_decay)
            return Recovery(self.gamma, optimizer, self.through_memory, self.attempts)
        if self.scenario == "GG":
            return None
        return search_by(self.search, self.objective, num_classes, self.log_base)

    def make_method(self, head: str) -> methods.Method:
        """The method, for networks whose last layer has this name."""
        makers = {
            "SupSup": partial(methods.SupSup, self._mask),
            "Transfer": partial(methods.Transfer, self._mask),
            "BatchE": partial(methods.BatchE, self.random_weights),
            "PSP": methods.PSP,
            "SeparateHeads": partial(methods.SeparateHeads, head, self.random_weights),
            "FineTuning": partial(methods.FineTuning, head),
            "UpperBound": partial(methods.UpperBound, self.fine_tunes),
            "LowerBound": methods.LowerBound,
            "HopSupSup": methods.HopSupSup,
        }
        return makers[self.method]()

    @property
    def _mask(self) -> Callable[[Any], Any]:
        """From scores to a mask."""
        if self.er_scale is not None:
            return masks.ErdosRenyi(self.er_scale)
        return masks.threshold if self.density is None else masks.TopK(self.density)

    def make_optimizer(self, learning_rate: float, schedule: Schedule | None = None) -> Optimizer:
        """The optimiser with a step size."""
        if self.optimizer == "RMSprop":
            return RMSprop(learning_rate, schedule=schedule)
        if self.optimizer == "Adam":
            return Adam(learning_rate, self.weight_decay, schedule)
        return SGD(learning_rate, self.momentum, self.weight_decay, schedule)

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
