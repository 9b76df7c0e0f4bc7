"""Commands for runs on disk."""

from supsup_jax.cli.commands.calibrating import Calibrate
from supsup_jax.cli.commands.command import Command
from supsup_jax.cli.commands.comparing import Compare
from supsup_jax.cli.commands.reproduce import Reproduce
from supsup_jax.cli.commands.resuming import Collect, Resume
from supsup_jax.cli.commands.single_run import (
    Evaluate,
    Export,
    ExportBank,
    ExportTorch,
    ExportWeights,
    ImportTorch,
    Predict,
    Show,
)
from supsup_jax.cli.commands.summaries import Bytes, Imagenet, Plot

COMMANDS: dict[str, type[Command]] = {
    "bytes": Bytes,
    "calibrate": Calibrate,
    "collect": Collect,
    "compare": Compare,
    "evaluate": Evaluate,
    "export": Export,
    "export-bank": ExportBank,
    "export-torch": ExportTorch,
    "export-weights": ExportWeights,
    "imagenet": Imagenet,
    "import-torch": ImportTorch,
    "plot": Plot,
    "predict": Predict,
    "reproduce": Reproduce,
    "run": Resume,
    "show": Show,
}
"""The commands of `python -m supsup_jax` by name."""
