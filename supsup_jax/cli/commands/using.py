"""Commands that use a trained run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from supsup_jax.bank import first
from supsup_jax.cli import advice
from supsup_jax.cli.commands.command import Command, OneRun
from supsup_jax.cli.console import show_evaluation, show_run
from supsup_jax.cli.options import parse_tasks
from supsup_jax.compat import torch
from supsup_jax.data import pictures
from supsup_jax.errors import UserError
from supsup_jax.runs import composition, records, results
from supsup_jax.runs.evaluate import evaluate
from supsup_jax.runs.opening import restore
from supsup_jax.runs.run import Run
from supsup_jax.system import atomic, extras
from supsup_jax.system.yaml import parse_yaml


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measures the accuracy of a run's tasks."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    task: Literal["given", "inferred"] = "given"
    """Whether the network is told the task of an image, or infers it."""

    tasks: Annotated[str | None, tyro.conf.arg(metavar="FIRST:STOP")] = None
    """Which tasks, such as 0:10; by default all."""

    data: Path | None = None
    """Folder with data sets, if not the one that the run had."""

    output: Path | None = None
    """CSV file with a row for each task."""

    def run(self) -> None:
        """Evaluates it.

        Raises:
            UserError: if the run or its data cannot be used.
        """
        run = restore(self.folder)
        tasks = None if self.tasks is None else [*parse_tasks(self.tasks)]
        measured = evaluate(run, tasks, self.task, self.data)
        if self.output:
            measured.to_csv(self.output)
        self.print_result(dataclasses.asdict(measured), lambda: show_evaluation(self.folder, self.task, measured))
        line = advice.on_inference(run, measured.picked, measured.accuracy) if measured.picked is not None else None
        if line and not self.json:
            print(line)


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """Says which class each image is, and with which task: a row of CSV for each."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """NumPy file with images as the network sees them, uint8 or floats of 0 to 1; or a PNG or JPEG file, or a folder of
    such."""

    task: int | None = None
    """The task of all images; by default it is inferred for each."""

    search: Literal["one_shot", "binary", "exhaustive"] | None = None
    """How the task is inferred, if not as the run's experiment says."""

    objective: Literal["entropy", "superfluous", "maximum"] | None = None
    """What is small for the right task, if not what the run's experiment says."""

    resize: bool = False
    """Reduce pictures of another size, and cut out their centre; runs of ImageNet do it always."""

    output: Path | None = None
    """CSV file to write, in place of printing."""

    def run(self) -> None:
        """Predicts, and prints or writes it.

        Raises:
            UserError: if the run or the images cannot be used.
        """
        run = restore(self.folder)
        side: int | None = min(run.inputs.image_shape[:2]) if self.resize else None
        side = getattr(run.experiment.tasks.source, "shorter_side", side)
        names, images = pictures.read(self.images.expanduser(), run.inputs, side)
        predicted = run.predict(images, self.task, self.search, self.objective)
        columns = {
            "Image": names,
            "Label": predicted.labels.tolist(),
            "Task": predicted.tasks.tolist(),
            "Probability": [f"{value:.4f}" for value in predicted.probabilities.max(-1)],
        }
        text = results.csv_text([columns, *zip(*columns.values(), strict=True)])
        if self.output:
            atomic.write(self.output.expanduser(), text)
        plain = {"images": names, "labels": predicted.labels, "tasks": predicted.tasks}
        plain |= {"probabilities": np.round(predicted.probabilities.astype(float), 6)}
        self.print_result(plain, lambda: print(self.output or text.rstrip()))


@dataclass(frozen=True, kw_only=True)
class Show(Command):
    """Says what is in a run: tasks, accuracies, densities, bytes, versions."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    def run(self) -> None:
        """Prints it.

        Raises:
            UserError: if the run cannot be read.
        """
        plain = summary(restore(self.folder))
        self.print_result(plain, lambda: show_run(plain))


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Writes a run's predictions as a program that JAX alone can run (StableHLO)."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to write."""

    task: int | None = None
    """The task of all images; by default it is inferred for each."""

    def run(self) -> None:
        """Writes it.

        Raises:
            UserError: if the run cannot be used.
        """
        restore(self.folder).export(self.output, self.task)
        self.print_result({"written": self.output}, lambda: print(self.output))


@dataclass(frozen=True, kw_only=True)
class ImportTorch(Command):
    """Makes a run of a final.pt that the original implementation wrote."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the new run."""

    set: tuple[str, ...] = ()
    """Settings that the file does not have, or has otherwise, such as --set network=LeNet er_scale=16."""

    def run(self) -> None:
        """Makes the run.

        Raises:
            UserError: if the file cannot be used, or the folder holds a run already.
        """
        made = torch.import_torch(self.file.expanduser(), self.output.expanduser(), **_settings(self.set))
        plain = summary(restore(made))
        self.print_result(plain, lambda: show_run(plain))


@dataclass(frozen=True, kw_only=True)
class ExportTorch(Command):
    """Writes a run as a final.pt, as the original implementation has it."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to write."""

    def run(self) -> None:
        """Writes it.

        Raises:
            UserError: if the run cannot be used.
        """
        extras.require("torch", "export-torch")
        torch.export_torch(restore(self.folder), self.output.expanduser())
        self.print_result({"written": self.output}, lambda: print(self.output))


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Settings from `name=value` pairs, values as in YAML.

    Raises:
        UserError: if one is no such pair.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair} sets nothing; give name=value, such as network=LeNet")
        try:
            settings[name] = parse_yaml(value)
        except ValueError:
            raise UserError(f"--set {pair} has no value that YAML knows; quote it, such as name='a text'") from None
    return settings


def summary(run: Run) -> dict[str, Any]:
    """Tasks, accuracies in fractions, densities, bytes and versions of a run.

    Densities are those of the masks that it has learned: of each layer the mean over tasks.
    """
    evaluations = {result.num_tasks: result for result in run.record.evaluations}
    last = evaluations[max(evaluations)] if evaluations else None
    account = run.account()
    settings = results.read_settings(run.folder) if run.folder else {}
    experiment = composition.plain(run.experiment)
    return {
        "run": str(run.folder),
        "name": run.experiment.name,
        "method": experiment["method"],
        "network": experiment["network"],
        "scenario": experiment["scenario"],
        "seed": run.experiment.seed,
        "inputs": run.inputs._asdict(),
        "outputs": run.net.num_outputs,
        "weights": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(run.weights)),
        "tasks": run.num_tasks,
        "own_tasks": sum(result.labels is not None for result in run.record.tasks),
        "learned": {
            "accuracy": [result.accuracy for result in run.record.tasks],
            "loss": [result.loss for result in run.record.tasks],
        },
        "evaluated": last
        and {
            "tasks": last.num_tasks,
            "given": float(np.mean(last.given)),
            "inferred": None if last.inferred is None else float(np.mean(last.inferred)),
            "picked": None if last.picked is None else float(np.mean(last.picked)),
        },
        "densities": _densities(run),
        "bytes": account | {"all": records.total(account)},
        "versions": settings.get("versions"),
        "settings": experiment,
    }


def _densities(run: Run) -> dict[str, float]:
    """The fraction of its weights that the masks of each layer keep, the mean over tasks."""
    if not run.method.has_masks:
        return {}
    bank = first(run.bank, run.num_tasks)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(bank))
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): int(np.bitwise_count(leaf).sum(dtype=np.int64))
        / (leaf[..., 0].size * run.num_tasks)
        for path, leaf in leaves
    }
