"""Everything that decides what a run computes, in one frozen dataclass."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import jax
import typeguard
import yaml

from supsup_jax import inference, masks, methods, networks
from supsup_jax.data import Benchmark, Dataset, PermutedMNIST, RotatedMNIST, SplitCIFAR100, SplitMNIST
from supsup_jax.discovery import Rule
from supsup_jax.errors import UserError
from supsup_jax.evaluation import Protocol
from supsup_jax.optimizers import SGD, Adam, Cosine, Optimizer, RMSprop
from supsup_jax.recovery import Recovery

_NETWORKS = {"LeNet": networks.LeNet, "FC1024": networks.FC1024, "BNNet": networks.BNNet}
_BENCHMARKS = {
    "PermutedMNIST": PermutedMNIST,
    "RotatedMNIST": RotatedMNIST,
    "SplitMNIST": SplitMNIST,
    "SplitCIFAR100": SplitCIFAR100,
}
_INITIALIZERS = {
    "signed_constant": networks.signed_constant,
    "kaiming_normal": networks.kaiming_normal,
    "kaiming_uniform": networks.kaiming_uniform,
    "xavier_normal": networks.xavier_normal,
}
_SEARCHES = {"one_shot": inference.one_shot, "binary": inference.binary, "exhaustive": inference.exhaustive}


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

    dataset: Literal["mnist", "cifar100", "digits"] = "mnist"
    """Data set that tasks are made of: MNIST (28 x 28), CIFAR-100, or scikit-learn's digits (8 x 8, embedded)."""

    benchmark: Literal["PermutedMNIST", "RotatedMNIST", "SplitMNIST", "SplitCIFAR100"] = "PermutedMNIST"
    """What makes tasks of it: another order of the pixels, another angle, another two classes, or another five of an
    order that the seed draws."""

    method: Literal["SupSup", "Transfer", "BatchE", "PSP", "SeparateHeads", "UpperBound", "LowerBound", "HopSupSup"] = (
        "SupSup"
    )
    """How tasks are learned in one network; UpperBound gives each a network, LowerBound trains one on all in turn."""

    network: Literal["LeNet", "FC1024", "BNNet", "GEMResNet18"] = "LeNet"
    """Network: inputs-300-100-features, inputs-1024-1024-features, inputs-2048-2048-features with batch norm, or a
    narrow ResNet-18."""

    features: int = 100
    """Outputs of the network; those beyond the classes are the superfluous neurons."""

    width: float = 1.0
    """Multiplies the sizes of hidden layers."""

    affine: bool = False
    """GEMResNet18: whether its batch norm has gains and biases."""

    initializer: Literal["signed_constant", "kaiming_normal", "kaiming_uniform", "xavier_normal"] = "signed_constant"
    """How the weights are drawn."""

    random_weights: bool = False
    """BatchE, SeparateHeads: whether the shared weights are never trained ("Rand W")."""

    fine_tunes: bool = False
    """UpperBound: whether a task starts from the last one's network, as in the paper's curve of SplitCIFAR100."""

    er_scale: float | None = None
    """SupSup: a layer of O outputs and I inputs keeps the fraction min(0.5, s (O + I) / (O I kh kw)) of its weights,
    those with the largest scores by magnitude; more is denser. By default those with scores of at least 0."""

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

    steps: int = 1000
    """Updates a task."""

    epochs: int | None = None
    """Passes over a task's training images, in place of --steps; the last batch of each counts as a whole one."""

    schedule: Literal["constant", "cosine"] = "constant"
    """The step sizes over a task's updates; the cosine is stepped once an epoch."""

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
        masked = self.method in ("SupSup", "Transfer")
        if self.er_scale is not None and not masked:
            raise UserError(f"--sparsity is for --method SupSup or Transfer; {self.method} has no such masks")
        if self.affine and (self.network != "GEMResNet18" or masked):
            raise UserError("--affine is for --network GEMResNet18, and not for the masks of SupSup or Transfer")
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
        if self.scenario != "GG" and self.objective == "maximum" and self.search != "exhaustive":
            raise UserError(f"--objective maximum is for --search exhaustive; {self.search} takes entropy")

    @property
    def evaluations(self) -> list[int]:
        """The numbers of tasks learned after which to evaluate, in order."""
        return sorted({count for count in self.eval_at if count < self.num_tasks} | {self.num_tasks})

    @property
    def in_turn(self) -> bool:
        """Whether every task needs what the one before it has left."""
        return self.scenario == "NNs" or self._method("").in_turn(1)

    def build(self, dataset: Dataset) -> Parts:
        """The network, method, benchmark, optimiser and protocol of evaluation over a data set.

        Raises:
            UserError: if the network does not fit the data set.
        """
        benchmark = _BENCHMARKS[self.benchmark].of(dataset)
        if benchmark.max_tasks is not None and self.num_tasks > benchmark.max_tasks:
            raise UserError(f"--num-tasks {self.num_tasks} is more than {self.benchmark} has: {benchmark.max_tasks}")
        if self.features < benchmark.num_classes:
            raise UserError(f"--features {self.features} is less than the {benchmark.num_classes} classes")
        if self.scenario != "GG" and self.objective == "superfluous" and self.features == benchmark.num_classes:
            raise UserError(f"--objective superfluous needs --features above the {benchmark.num_classes} classes")
        narrowest = 20 if self.network == "GEMResNet18" else 100
        if int(self.width * narrowest) < 1:
            raise UserError(f"--width {self.width} leaves a layer without units; give at least {1 / narrowest}")
        net = self._network(dataset)
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
        per_epoch = -(-benchmark.train_size // self.batch_size)
        steps = self.steps if self.epochs is None else self.epochs * per_epoch
        schedule = Cosine(-(-steps // per_epoch), per_epoch) if self.schedule == "cosine" else None
        optimizer, weights_optimizer = (
            self._optimizer(rate, schedule) for rate in (self.learning_rate, self.weights_learning_rate)
        )
        rule = Rule(self.check_every, self.novelty, self.fewest_masks, self.most_masks, objectives[self.objective])
        return Parts(net, self._method(net.head), benchmark, optimizer, weights_optimizer, steps, protocol, rule)

    def densities(self, dataset: Dataset) -> dict[str, float]:
        """The fraction of its weights that each layer's masks keep; nothing where masks are not of a fixed density."""
        if self.er_scale is None:
            return {}
        weights, _ = jax.eval_shape(self._network(dataset).init, jax.random.key(0))
        leaves = jax.tree_util.tree_leaves_with_path(masks.erdos_renyi(weights, self.er_scale))
        return {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): density for path, density in leaves}

    def _network(self, dataset: Dataset) -> networks.Network:
        common = self.features, self.width, dataset.image_shape, _INITIALIZERS[self.initializer]
        if self.network == "GEMResNet18":
            return networks.GEMResNet18(*common, affine=self.affine)
        return _NETWORKS[self.network](*common)

    def _method(self, head: str) -> methods.Method:
        mask = masks.threshold if self.er_scale is None else masks.ErdosRenyi(self.er_scale)
        makers = {
            "SupSup": partial(methods.SupSup, mask),
            "Transfer": partial(methods.Transfer, mask),
            "BatchE": partial(methods.BatchE, self.random_weights),
            "PSP": methods.PSP,
            "SeparateHeads": partial(methods.SeparateHeads, head, self.random_weights),
            "UpperBound": partial(methods.UpperBound, self.fine_tunes),
            "LowerBound": methods.LowerBound,
            "HopSupSup": methods.HopSupSup,
        }
        return makers[self.method]()

    def _optimizer(self, learning_rate: float, schedule: Cosine | None) -> Optimizer:
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


def load_experiment(path: Path) -> Experiment:
    """Reads an experiment's settings from a YAML file; those that it does not name have their defaults.

    Raises:
        UserError: if it cannot be read, names no name, or names or sets what does not exist or is out of range.
    """
    settings = load_settings(path)
    if "name" not in settings:
        raise UserError(f"{path} sets no name; give it one, such as name: {path.stem}")
    return Experiment(**settings)


def load_settings(path: Path) -> dict[str, Any]:
    """Reads fields of an experiment from a YAML file, as `dataclasses.replace` takes them; `sparsity` is `er_scale`.

    Raises:
        UserError: if it cannot be read, or names or sets what does not exist.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not YAML ({reason}); give a file with a setting a line, such as steps: 1000"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file with settings") from None
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise UserError(f"{path} does not hold settings; give a setting a line, such as steps: 1000")
    return fields_of(plain, path)


_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    int | None: "a whole number",
    float: "a number, which YAML knows by its point, as in 1.0e-4",
    float | None: "a number",
    int | None: "a whole number",
    str: "text",
    tuple[int, ...]: "a list of whole numbers",
}


def fields_of(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of an experiment from plain data; `sparsity` is `er_scale`.

    Args:
        plain: settings by name.
        path: where they were read.

    Raises:
        UserError: if a name does not exist, or its value is of another type.
    """
    types = get_type_hints(Experiment)
    types["sparsity"] = types.pop("er_scale")
    fields = {}
    for name, value in plain.items():
        if name not in types:
            known = {name: name for name in types} | {"er_scale": "sparsity"}
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise UserError(f"{path} sets {name}, which does not exist; did you mean {known[nearest]}?")
        field = "er_scale" if name == "sparsity" else name
        fields[field] = tuple(value) if isinstance(value, list) else value
        if isinstance(value, int) and not isinstance(value, bool) and types[name] in (float, float | None):
            fields[field] = float(value)
        try:
            every = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(fields[field], types[name], collection_check_strategy=every)
            fits = types[name] is bool or not isinstance(value, bool)  # Python takes true for 1
        except typeguard.TypeCheckError:
            fits = False
        if not fits:
            one_of = f"one of {', '.join(map(str, get_args(types[name])))}"
            raise UserError(f"{path} sets {name} to {value!r}; it takes {_IN_WORDS.get(types[name], one_of)}")
    return fields
