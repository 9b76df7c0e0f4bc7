"""The scripts in `experiments/`, and how tests call them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
SPLITCIFAR100 = [path for path in SCRIPTS if path.parent.name == "splitcifar100"]
SPLITIMAGENET = [path for path in SCRIPTS if path.parent.name == "splitimagenet"]
OF_OTHER_PAPERS = [path for path in SCRIPTS if path.parts[-3:-1] in (("GG", "MNISTPerm"), ("GG", "CIFAR100-10-tasks"))]
RELATED = ("SplitCIFAR10", "SplitCIFAR100", "cifar100superclasses", "splittinyimagenet", "fivedatasets")
OF_RELATED_WORK = [path for path in SCRIPTS if path.parent.name in RELATED]
PAPER = [path for path in SCRIPTS if path not in OF_RELATED_WORK]
MNIST = [path for path in PAPER if path.parent != ROOT / "experiments" and "GG" not in path.parts]
QUICK = ["--num-tasks", "3", "--steps", "20", "--eval-at", "2", "3", "--width", "0.1"]


def call(script, *arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )
