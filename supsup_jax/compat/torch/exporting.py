"""Export of runs as files of the original implementation."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from supsup_jax.compat.torch.layout import BENCHMARKS, PARTS, UNITS, layer_of, to_torch, with_torch_names
from supsup_jax.errors import UserError
from supsup_jax.runs import composition
from supsup_jax.runs.run import Run
from supsup_jax.runs.task_store import LearnedTasks
from supsup_jax.system import atomic, extras, numerics


@numerics.with_fixed_flags
def export_torch(run: Run, path: Path) -> None:
    """Write a run atomically as a file of the original implementation; `import_torch` converts it back.

    Runs do not store scores, so scores that give the masks are written, and Transfer is imported as SupSup. PSP is
    imported as UpperBound (see the package's documentation). PSP with convolutions, which the original does not have,
    is written like UpperBound, with IndividualHeads for all layers. The arguments are stored as a dictionary, which
    `torch.load` accepts without further options.

    Raises:
        UserError: if the original does not have the network or method, or PyTorch is not installed.
    """
    torch = extras.require("torch", "a file of PyTorch")
    settings, weights = composition.settings_of(run.experiment), jax.device_get(run.weights)
    network, method = settings["network"], settings["method"]
    if network not in UNITS or method not in _METHODS:
        raise UserError(
            f"network {network} with {method} cannot be exported; use a built-in network, and a built-in method other "
            "than HopSupSup"
        )
    if settings.get("affine") and run.num_tasks > 1:
        raise UserError(
            "the original has no batch norm with gains (affine) for several tasks; export a run of one task, or "
            "without affine"
        )
    alone = run.num_tasks == 1 and _keeps_largest(settings)  # the original learns each task of SplitImageNet separately
    rotates = method == "PSP" and all(leaf.ndim == 2 for leaf in jax.tree.leaves(weights))
    forms = {"PSP": "PSP" if rotates else "UpperBound", "FineTuning": "SeparateHeads"}
    form = forms.get(method, method)
    arrays: dict[str, Any] = {}
    for layer, name, leaf in with_torch_names(weights, network):
        arrays[f"{layer}.{name}"] = to_torch(leaf)
    if method == "SeparateHeads":  # the initial value of the next head
        assert isinstance(run.tasks, LearnedTasks)
        (head,) = jax.tree.leaves(run.tasks.next_carry(weights))
        arrays[f"{layer_of((run.net.head,), network)}.weight"] = to_torch(head)
    for task in range(run.num_tasks):
        for layer, name, array in _adapter_arrays(run, form, task):
            arrays[f"{layer}.{name}" if alone else f"{layer}.{name}.{task}"] = array
        norm = "" if alone or settings.get("affine") else f".bns.{task}"
        for layer, name, leaf in with_torch_names(jax.device_get(run.stats_for(task)), network):
            arrays[f"{layer}{norm}.{name}"] = leaf
            arrays[f"{layer}{norm}.num_batches_tracked"] = np.zeros((), np.int64)
    ours = {"experiment": composition.plain(run.experiment), "inputs": run.inputs._asdict()}
    measured = [asdict(task) for task in run.record.tasks] if len(run.record.tasks) == run.num_tasks else []
    content = {
        "epoch": settings["epochs"] or 1,
        "arch": network,
        "state_dict": {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()},
        "best_acc1": [task["best"] for task in measured],
        "curr_acc1": [task["accuracy"] for task in measured],
        "args": _arguments(run, form, alone),
        "supsup_jax": ours | {"tasks": measured},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, buffer.getvalue())


_METHODS = ("SupSup", "Transfer", "BatchE", "PSP", "SeparateHeads", "FineTuning", "UpperBound", "LowerBound")

_CONVOLUTIONS = {
    "BatchE": "VectorizedBatchEnsembles",
    "PSP": "PSPRotation",
    "UpperBound": "IndividualHeads",
    "SeparateHeads": "StandardConv",
    "LowerBound": "StandardConv",
}


def _arguments(run: Run, form: str, alone: bool) -> dict[str, Any]:
    """Return the original's arguments that determine the results."""
    settings = composition.settings_of(run.experiment)
    benchmark, affine = settings["benchmark"], settings.get("affine", False)
    largest = "MaskConv" if alone else "MultitaskMaskConv"
    masked = largest if _keeps_largest(settings) else "FastMultitaskMaskConv"
    norm = "StandardBN" if affine else "NonAffineBN" if alone else "MultitaskNonAffineBN"
    sets = {benchmark: name for name, benchmark in BENCHMARKS.items()}
    trained = {"PSP": -1, "FineTuning": -1, "LowerBound": -1, "BatchE": 1, "SeparateHeads": 1}
    return {
        "set": sets.get(benchmark),
        "model": settings["network"],
        "conv_type": _CONVOLUTIONS.get(form, masked),
        "bn_type": norm,
        "num_tasks": PARTS.get(benchmark, run.num_tasks) if alone else run.num_tasks,
        "task_eval": settings["first_task"] if alone else None,
        "output_size": run.net.num_outputs,
        "real_neurons": run.inputs.num_classes,
        "width_mult": settings["width"],
        "er_sparsity": settings.get("er_scale") is not None,
        "sparsity": settings.get("er_scale") or settings.get("density") or 0.5,
        "individual_heads": form == "SeparateHeads",
        "train_weight_tasks": 0
        if form == "UpperBound" or settings.get("random_weights")
        else trained.get(settings["method"], 0),
        "seed": settings["seed"],
    }


def _keeps_largest(settings: dict[str, Any]) -> bool:
    """Return whether masks keep a fixed number of weights with the largest scores, and not all scores >= 0."""
    return settings.get("er_scale") is not None or settings.get("density") is not None


def _adapter_arrays(run: Run, form: str, task: int) -> list[tuple[str, str, np.ndarray]]:
    """Return layer, name and array of each part of a task's adapter, in the original's form."""
    if form == "LowerBound":
        return []
    network, adapter = composition.settings_of(run.experiment)["network"], run.method.unpack(run.bank, task)
    if form in ("SupSup", "Transfer"):
        # Score 1 for kept weights; for others 0 (not the largest by magnitude) or -1 (less than 0).
        other = 0 if _keeps_largest(composition.settings_of(run.experiment)) else -1
        adapter = jax.tree.map(lambda mask: np.where(mask, np.float32(1), np.float32(other)), jax.device_get(adapter))
    elif form == "BatchE":
        rows = with_torch_names(jax.device_get(adapter), network)
        return [(layer, name, np.asarray(row)[None]) for layer, name, row in rows]
    elif form == "SeparateHeads":
        adapter = {run.net.head: adapter}
    elif form == "PSP":
        adapter = run.method.init(jax.random.wrap_key_data(adapter, impl="threefry2x32"), run.weights)["rotations"]
        rows = with_torch_names(jax.device_get(adapter), network)
        outputs = [leaf.shape[-1] for _, _, leaf in with_torch_names(run.weights, network)]
        # The original's layer also has scores, which it does not use.
        unused = [
            (layer, "scores", np.zeros((o, len(r)), np.float32)) for (layer, _, r), o in zip(rows, outputs, strict=True)
        ]
        return [(layer, "contexts", rotation.T) for layer, _, rotation in rows] + unused
    return [(layer, "scores", to_torch(leaf)) for layer, _, leaf in with_torch_names(jax.device_get(adapter), network)]
