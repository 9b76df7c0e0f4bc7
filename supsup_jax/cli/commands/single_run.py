"""Commands that evaluate, describe, apply and convert a run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from supsup_jax.bank import first
from supsup_jax.cli import advice
from supsup_jax.cli.commands.command import Command, OneRun, parse_settings
from supsup_jax.cli.commands.inferring import Inferring
from supsup_jax.cli.console import show_evaluation, show_run
from supsup_jax.cli.flags import naming_flags
from supsup_jax.cli.options import parse_tasks
from supsup_jax.compat import torch
from supsup_jax.data import pictures
from supsup_jax.errors import UserError
from supsup_jax.networks import save_weights
from supsup_jax.runs import composition, records, results
from supsup_jax.runs.disk_run import DiskRun
from supsup_jax.runs.evaluate import evaluate
from supsup_jax.runs.opening import export_bank, restore
from supsup_jax.runs.run import Run
from supsup_jax.system import atomic, extras, hosts
from supsup_jax.system.sizes import parse_bytes


@dataclass(frozen=True, kw_only=True)
class Evaluate(Inferring):
    """Measure the test accuracy of a run's tasks."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    task: Literal["given", "inferred"] = "given"
    """Whether the task of an image is given to the network or inferred from the image."""

    images_per_pick: int | None = None
    """Number of images of a batch that its task is inferred from; by default that of the run's experiment."""

    eval_sample: float | None = None
    """Fraction of the test batches and images whose task is inferred, such as 0.1: a random sample, drawn by seed and
    task, for accuracies with standard errors. By default that of the run's experiment; 1 is all."""

    tasks: Annotated[str | None, tyro.conf.arg(metavar="FIRST:STOP")] = None
    """Tasks to evaluate, such as 0:10 for the first ten; by default all."""

    data: Path | None = None
    """Folder with data sets; by default the folder that the run used."""

    output: Path | None = None
    """CSV file to write, with one row per task."""

    def run(self) -> None:
        """Evaluate the run, and print the accuracies.

        Raises:
            UserError: if the run or its data cannot be used.
        """
        run = self.restored(self.folder)
        tasks = None if self.tasks is None else [*parse_tasks(self.tasks)]
        inference = {**self.inference(run), "images_per_pick": self.images_per_pick}
        inference["eval_sample"] = self.eval_sample
        with naming_flags():
            measured = evaluate(run, tasks, self.task, self.data, **inference)
        if not hosts.is_first():
            return
        if self.output:
            measured.to_csv(self.output)
        self.print_result(dataclasses.asdict(measured), lambda: show_evaluation(self.folder, self.task, measured))
        if measured.picked is not None and not self.json:
            search = run.inference(inference["search"], inference["objective"])
            images = self.images_per_pick
            if line := advice.on_inference(run, measured.picked, measured.accuracy, None, search, images):
                print(line)


@dataclass(frozen=True, kw_only=True)
class Predict(Inferring):
    """Predict the class of each image, and its task if none is given; print one CSV row per image."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """NumPy file (.npy) with images in the network's input shape, uint8 or floats from 0 to 1;
    or a PNG or JPEG file, or a folder of PNG and JPEG files."""

    task: int | None = None
    """Task of all images; by default the task of each image is inferred."""

    reject: float | None = None
    """Fraction of images of the learned tasks that may be rejected, such as 0.05.
    Images that look less like these tasks get task and label -1. Requires the command calibrate."""

    bank_on_disk: bool = False
    """Leave the masks on disk, where export-bank has written them, and read only the part that the search needs."""

    memory: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """With --bank-on-disk: limit of the memory that an inference takes, such as 500MB; by default 1GiB."""

    bank: Path | None = None
    """With --bank-on-disk: folder that export-bank wrote; by default RUN/bank."""

    resize: bool = False
    """Resize and centre-crop pictures to the network's input shape; runs on ImageNet always do."""

    output: Path | None = None
    """CSV file to write; by default the rows are printed."""

    def run(self) -> None:
        """Predict, and print or write the predictions.

        Raises:
            UserError: if the run or the images cannot be used.
        """
        run = self._restored()
        side: int | None = min(run.inputs.image_shape[:2]) if self.resize else None
        side = getattr(run.experiment.tasks.source, "shorter_side", side)
        names, images = pictures.read(self.images.expanduser(), run.inputs, side)
        with naming_flags():
            predicted = run.predict(images, self.task, reject=self.reject, **self.inference(run))
        if not hosts.is_first():
            return
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

    def _restored(self) -> Run | DiskRun:
        if not self.bank_on_disk:
            if given := next((name for name in ("memory", "bank") if getattr(self, name) is not None), None):
                raise UserError(f"--{given} {getattr(self, given)}: requires --bank-on-disk")
            return self.restored(self.folder)
        if self.shares():
            raise UserError(
                "--bank-on-disk: cannot be combined with --shard-bank or several hosts; leave one of them out"
            )
        memory = None if self.memory is None else parse_bytes("--memory", self.memory)
        with naming_flags():
            return restore(self.folder, bank_on_disk=self.bank.expanduser() if self.bank else True, memory=memory)


@dataclass(frozen=True, kw_only=True)
class ExportBank(Command):
    """Write the masks of a run in a form that predict --bank-on-disk reads in part, for banks larger than memory."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Path | None = None
    """Folder to write; by default RUN/bank. It takes a quarter of a byte for each weight and task."""

    memory: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "1GiB"
    """Limit of the memory that the masks take, such as 500MB, unless a single checkpoint takes more."""

    def run(self) -> None:
        """Write the bank.

        Raises:
            UserError: if the run cannot be used, or the disk is too small.
        """
        output = self.output.expanduser() if self.output else None
        written = export_bank(self.folder, output, parse_bytes("--memory", self.memory))
        self.print_result({"written": written}, lambda: print(written))


@dataclass(frozen=True, kw_only=True)
class Show(Command):
    """Print a summary of a run: tasks, accuracies, densities of masks, bytes, versions."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    def run(self) -> None:
        """Print the summary.

        Raises:
            UserError: if the run cannot be read.
        """
        plain = summary(restore(self.folder))
        self.print_result(plain, lambda: show_run(plain))


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Export a run's prediction function as a StableHLO program, which requires only JAX."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to write."""

    task: int | None = None
    """Task of all images; by default the program infers the task of each image."""

    def run(self) -> None:
        """Write the program.

        Raises:
            UserError: if the run cannot be used.
        """
        restore(self.folder).export(self.output, self.task)
        self.print_result({"written": self.output}, lambda: print(self.output))


@dataclass(frozen=True, kw_only=True)
class ExportWeights(Command):
    """Write the weights of a run's network for one task to a file, for --base-weights of other runs."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to write: in safetensors if its name ends in .safetensors, otherwise in Flax's msgpack."""

    task: int = 0
    """Task whose effective weights and batch-norm statistics are written."""

    def run(self) -> None:
        """Write the file.

        Raises:
            UserError: if the run cannot be used.
        """
        run, output = restore(self.folder), self.output.expanduser()
        save_weights(output, run.weights_for(self.task), run.stats_for(self.task))
        self.print_result({"written": output}, lambda: print(output))


@dataclass(frozen=True, kw_only=True)
class ImportTorch(Command):
    """Convert a final.pt file of the original PyTorch implementation to a run."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to read."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the new run."""

    set: tuple[str, ...] = ()
    """Settings that the file lacks, or to replace, such as --set network=LeNet er_scale=16."""

    def run(self) -> None:
        """Write the run, and print its summary.

        Raises:
            UserError: if the file cannot be used, or the folder contains a run already.
        """
        folder = torch.import_torch(
            self.file.expanduser(), self.output.expanduser(), **parse_settings("--set", self.set)
        )
        plain = summary(restore(folder))
        self.print_result(plain, lambda: show_run(plain))


@dataclass(frozen=True, kw_only=True)
class ExportTorch(Command):
    """Convert a run to a final.pt file of the original PyTorch implementation."""

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File to write."""

    def run(self) -> None:
        """Write the file.

        Raises:
            UserError: if the run cannot be used.
        """
        extras.require("torch", "export-torch")
        torch.export_torch(restore(self.folder), self.output.expanduser())
        self.print_result({"written": self.output}, lambda: print(self.output))


def summary(run: Run) -> dict[str, Any]:
    """Return tasks, accuracies (as fractions), densities, bytes and versions of a run, as JSON has them.

    The density of a layer is the fraction of weights that the learned masks keep, the mean over tasks.
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
    """Return the density of the learned masks by layer, the mean over tasks; empty for methods without masks."""
    if not run.method.has_masks:
        return {}
    bank = first(run.bank, run.num_tasks)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(bank))
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): int(np.bitwise_count(leaf).sum(dtype=np.int64))
        / (leaf[..., 0].size * run.num_tasks)
        for path, leaf in leaves
    }
