"""Files of the original's networks, in the form of its main program."""

import argparse
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

MEAN, STD = 0.1307, 0.3081


def tensors(arrays):
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def final_pt(path, arrays, state=None, **args):
    """Write a file in the form of the original's main program."""
    args = {"run_base_dir": pathlib.Path("runs/id=x~try=0"), "device": torch.device("cpu"), "seed": 1} | args
    state = tensors(arrays) | (state or {})
    content = {"epoch": 3, "arch": args.get("model"), "state_dict": state, "args": argparse.Namespace(**args)}
    torch.save(content | {"best_acc1": [0.9] * 20, "curr_acc1": [0.8] * 20}, path)
    return path


def lenet(arrays, tasks=6):
    """Return the state of a LeNet of the original, with a ParameterList of scores per layer."""
    state = {}
    for place, layer in enumerate(("linear.0", "linear.2", "linear.4")):
        state[f"{layer}.weight"] = arrays[f"weight{place}"]
        for task in range(tasks):
            state[f"{layer}.scores.{task}"] = arrays[f"scores{place}"][task]
    return state


SUPSUP = {
    "set": "MNISTPerm",
    "model": "LeNet",
    "conv_type": "FastMultitaskMaskConv",
    "num_tasks": 6,
    "adaptor": "se_oneshot_entropy_minimization",
    "unshared_labels": True,
    "output_size": 20,
    "width_mult": 0.1,
}

CIFAR = {"set": "RandSplitCIFAR100", "model": "GEMResNet18", "bn_type": "MultitaskNonAffineBN", "output_size": 5}


def gemresnet18(arrays, parameter):
    """Return the state of two tasks of a GEMResNet18 of the original; only task 1 was learned."""
    state = {name.removeprefix("param:"): array for name, array in arrays.items() if name.startswith("param:")}
    state |= {name.removeprefix("stat:"): array for name, array in arrays.items() if name.startswith("stat:")}
    for name in list(state):
        if ".1" in name and (parameter in name or ".bns.1." in name):
            state[name.replace(".bns.1.", ".bns.0.").replace(f"{parameter}.1", f"{parameter}.0")] = state[name] * 0
    return state
