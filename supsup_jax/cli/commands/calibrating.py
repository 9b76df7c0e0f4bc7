"""The command that calibrates the inference of tasks of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from supsup_jax.cli.commands.command import Command, ObjectiveName, OneRun, SearchName
from supsup_jax.errors import UserError
from supsup_jax.runs.calibrating import REJECT, Calibrated, calibrate
from supsup_jax.runs.opening import restore


@dataclass(frozen=True, kw_only=True)
class Calibrate(Command):
    """Measure on test images how reliable inferred tasks are, and store it in the run.

    Fits the temperature of the confidence, and stores how images of the learned tasks look to the search, so that
    predict can reject others.
    """

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    images: int = 64
    """Number of test images per task to calibrate on; as many others are used to measure the result."""

    search: SearchName = None
    """Search that infers the task; by default the search of the run's experiment."""

    objective: ObjectiveName = None
    """Function of the outputs that is minimised to infer the task; by default that of the run's experiment."""

    data: Path | None = None
    """Folder with data sets; by default the folder that the run used."""

    def run(self) -> None:
        """Calibrate the run, and print the result.

        Raises:
            UserError: if the run or its data cannot be used.
        """
        if self.images < 1:
            raise UserError(f"--images {self.images}: must be at least 1")
        run = restore(self.folder)
        result = calibrate(run, self.images, self.data, self.search, self.objective)
        fitted = result.calibration
        plain = {
            **fitted.search,
            "images": len(fitted.novelties),
            "temperature": fitted.temperature,
            "found": result.found,
            "calibration_error": {"before": result.before.error, "after": result.curve.error},
            "rejected": result.rejected,
            "reliability": result.curve._asdict(),
        }
        self.print_result(plain, lambda: _show(self.folder, result))


def _show(folder: Path, result: Calibrated) -> None:
    """Print the quality of a calibration, and its reliability curve."""
    fitted = result.calibration
    how = ", ".join(f"{name} {value}" for name, value in fitted.search.items())
    print(
        f"{folder}: calibrated on {len(fitted.novelties):,} test images ({how}); temperature {fitted.temperature:.3g}"
    )
    print(f"on {result.curve.count.sum():,} other test images:")
    print(f"    task inferred correctly: {100 * result.found:.1f} %")
    print(f"    expected calibration error: {result.before.error:.4f} before, {result.curve.error:.4f} after")
    if np.isfinite(result.rejected):
        print(f"    rejected by predict --reject {REJECT:g}: {100 * result.rejected:.1f} %")
    table = Table("confidence", title="reliability", title_style="", title_justify="left")
    for name in ("images", "mean confidence", "task inferred correctly"):
        table.add_column(name, justify="right")
    bins = len(result.curve.count)
    for place, (confidence, accuracy, count) in enumerate(zip(*result.curve, strict=True)):
        if count:
            low, high = place / bins, (place + 1) / bins
            table.add_row(f"{low:.2f} to {high:.2f}", f"{count:,}", f"{confidence:.3f}", f"{accuracy:.3f}")
    Console().print(table)
