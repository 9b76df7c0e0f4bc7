"""Times until the first step: imports, the quickstart, restoring a run, and saving a checkpoint."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from compare import Case, Formulation
from scaling import make_run

QUICKSTART = Path(__file__).parents[1] / "experiments/quickstart.py"
TASKS = 2500


def process(*arguments: str) -> Callable[[], Callable[[], object]]:
    """Return the preparation of a run of Python with these arguments."""
    return lambda: lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True) and None


def quickstart(warm: bool) -> Callable[[], Callable[[], object]]:
    """Return the preparation of a quickstart, with or without compiled programs in the cache."""

    def prepare() -> Callable[[], object]:
        folder = Path(tempfile.mkdtemp())
        environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_COMPILATION_CACHE_DIR": ""}

        def call() -> None:
            command = [sys.executable, str(QUICKSTART), "--log-dir", str(folder / "runs")]
            subprocess.run(command, env=environment, check=True, capture_output=True)

        if warm:
            call()
        return call

    return prepare


def restoring() -> Callable[[], object]:
    import supsup_jax as ss

    folder = Path(tempfile.mkdtemp()) / "run"
    make_run(folder, TASKS, side=28)()
    return lambda: ss.restore(folder).num_tasks and None


def saving(num_tasks: int) -> Callable[[], Callable[[], object]]:
    """Return the preparation of saving 8 tasks after `num_tasks` others."""

    def prepare() -> Callable[[], object]:
        import supsup_jax as ss
        from supsup_jax.runs.checkpoints import Checkpoints, Chunk

        folder = Path(tempfile.mkdtemp())
        make_run(folder / "one", 8, side=28)()
        with Checkpoints(folder / "one") as checkpoints:
            run = checkpoints.records(0)[0]
        bank = ss.restore(folder / "one").bank
        (folder / "many").mkdir()
        checkpoints = Checkpoints(folder / "many", {name: run[name] for name in ("experiment", "inputs", "weights")})
        for _ in range(num_tasks // 8):
            checkpoints.save(Chunk(8, bank, {}), run["record"])

        def call() -> dict[str, int]:
            checkpoints.save(Chunk(8, bank, {}), run["record"])
            newest = max((folder / "many/checkpoints").iterdir(), key=lambda step: int(step.name))
            return {"bytes": sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())}

        return call

    return prepare


def cases() -> list[Case]:
    """Return cases of waiting times of users."""
    return [
        Case(
            "Importing",
            1,
            "imports",
            {
                "import supsup_jax": Formulation(process("-c", "import supsup_jax")),
                "import jax, flax.linen": Formulation(process("-c", "import jax, flax.linen")),
                "import torch": Formulation(process("-c", "import torch")),
            },
        ),
        Case(
            "The quickstart, from the command to the picture",
            1,
            "runs",
            {
                "a second time": Formulation(quickstart(warm=True), once=True),
                "the first time": Formulation(quickstart(warm=False), once=True),
            },
        ),
        Case(f"Restoring {TASKS:,} tasks of LeNet", TASKS, "tasks", {"supsup_jax": Formulation(restoring)}),
        Case(
            "A checkpoint of 8 new tasks of LeNet",
            1,
            "checkpoints",
            {f"after {count:,} tasks": Formulation(saving(count)) for count in (8, TASKS - 4)},
        ),
    ]
