"""The original's files, read without executing anything that they hold."""

import pathlib
import re
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supsup_jax.errors import UserError
from supsup_jax.system import extras

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What PyTorch's wrappers call the module that they hold."""


@dataclass(frozen=True)
class File:
    """What a file holds: tensors by name, the original's arguments, accuracies, and what `export_torch` adds."""

    path: Path
    tensors: dict[str, Any]
    args: dict[str, Any]
    accuracies: tuple[Any, Any]
    exported: dict[str, Any]

    def name(self, layer: str, array: str, task: int) -> str:
        """The name of what a layer keeps of a task, or of all tasks alike."""
        of_task = f"{layer}.bns.{task}.{array}" if array.startswith("running") else f"{layer}.{array}.{task}"
        return of_task if of_task in self.tensors else f"{layer}.{array}"

    def has(self, layer: str, array: str) -> bool:
        """Whether a layer keeps this of tasks."""
        return self.name(layer, array, 0) in self.tensors

    def array(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """An array of the original's layout, float32; rows and columns count as vectors.

        Raises:
            UserError: if there is none of this name and shape.
        """
        if name not in self.tensors:
            raise UserError(f"{self.path} has no {name}, which its network and method need; it cannot be imported")
        array = self.tensors[name].detach().float().numpy()
        if shape is not None and len(shape) == 1:
            array = array.reshape(-1)
        if shape is not None and array.shape != shape:
            raise UserError(
                f"{self.path} has {name} of shape {array.shape}, where the network needs {shape}; give network=..., "
                "width=... or features=... as it was learned with, or leave them out"
            )
        return array


def read(path: Path) -> File:
    """Reads a file, and executes nothing of it.

    Raises:
        UserError: if it cannot be read, or is no file of the original's.
    """
    torch = extras.require("torch", "a file of PyTorch")
    if not path.is_file():
        raise UserError(f"{path} is no file; give the final.pt that the original saved")
    # The arguments hold the folder of the run: as a path without a file system behind it.
    kinds = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    paths = [(kind, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name, kind in kinds.items()]
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_archive(path)
        with torch.serialization.safe_globals([Namespace, *paths]):
            plain = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of many kinds, for what is truncated or no such file
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds {refused[1]}, which could execute code; give a file of its state_dict alone"
            ) from None
        raise UserError(f"{path} is damaged, or no file of PyTorch; copy it again, or give a final.pt") from error
    plain = plain if isinstance(plain, dict) else {}
    state = plain.get("state_dict", plain)
    given = {
        str(name): tensor
        for name, tensor in (state if isinstance(state, dict) else {}).items()
        if isinstance(tensor, torch.Tensor)
    }
    tensors = {_unwrapped(name): tensor for name, tensor in given.items()}
    if len(tensors) < len(given):
        raise UserError(f"{path} holds a network both wrapped and not; give a file of one state_dict")
    for name, tensor in tensors.items():  # a view may repeat what a file of a few bytes holds, for ever
        if (
            tensor.layout is not torch.strided
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise UserError(f"{path} holds {name}, which is more than there is in the file; give a final.pt")
    if not tensors:
        raise UserError(f"{path} holds no state_dict of tensors; give the final.pt that the original saved")
    args = plain.get("args")
    args = args if isinstance(args, dict) else vars(args) if isinstance(args, Namespace) else {}
    args = {name: value for name, value in args.items() if value is not None}
    exported = plain.get("supsup_jax")
    accuracies = plain.get("curr_acc1"), plain.get("best_acc1")
    return File(path, tensors, args, accuracies, exported if isinstance(exported, dict) else {})


def _unwrapped(name: str) -> str:
    """A tensor's name without `DataParallel`, `torch.compile` and their like, around the network or its layers."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _check_archive(path: Path) -> None:
    """Compares the checksums of what a file holds, which PyTorch does not look at.

    Raises:
        ValueError: if one is another, or something would have to be unpacked, which PyTorch does not pack.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("its parts are compressed")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is another")
