"""Reading of files of the original implementation, without executing code in them."""

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
"""Names that PyTorch's wrappers give to the wrapped module."""


@dataclass(frozen=True)
class File:
    """The content of a file.

    Attributes:
        path: the file.
        tensors: tensors by name.
        args: the original's arguments.
        accuracies: the original's `curr_acc1` and `best_acc1`.
        exported: experiment, inputs and results that `export_torch` adds; empty for files of the original.
    """

    path: Path
    tensors: dict[str, Any]
    args: dict[str, Any]
    accuracies: tuple[Any, Any]
    exported: dict[str, Any]

    def name(self, layer: str, array: str, task: int) -> str:
        """Return the name of a layer's tensor for a task, or the name of the tensor that all tasks share."""
        of_task = f"{layer}.bns.{task}.{array}" if array.startswith("running") else f"{layer}.{array}.{task}"
        return of_task if of_task in self.tensors else f"{layer}.{array}"

    def has(self, layer: str, array: str) -> bool:
        """Return whether a layer has this tensor."""
        return self.name(layer, array, 0) in self.tensors

    def array(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a tensor as a float32 array in the original's layout; rows and columns are flattened to vectors.

        Raises:
            UserError: if there is no tensor with this name and shape.
        """
        if name not in self.tensors:
            raise UserError(f"{self.path} has no {name}, which its network and method require; it cannot be imported")
        array = self.tensors[name].detach().float().numpy()
        if shape is not None and len(shape) == 1:
            array = array.reshape(-1)
        if shape is not None and array.shape != shape:
            raise UserError(
                f"{self.path}: {name} has shape {array.shape}, but the network requires {shape}; give network=..., "
                "width=... or features=... as in the original run, or leave them out"
            )
        return array


def read(path: Path) -> File:
    """Read a file without executing code in it.

    Raises:
        UserError: if the file cannot be read, or does not contain a state dictionary.
    """
    torch = extras.require("torch", "a file of PyTorch")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the final.pt that the original saved")
    # The arguments contain paths; they are read as pure paths, which cannot access files.
    kinds = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    paths = [(kind, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name, kind in kinds.items()]
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_archive(path)
        with torch.serialization.safe_globals([Namespace, *paths]):
            plain = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # PyTorch raises many types for truncated and other files
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} contains {refused[1]}, which could execute code; give a file with only its state_dict"
            ) from None
        raise UserError(f"{path} is damaged, or is not a file of PyTorch; copy it again, or give a final.pt") from error
    plain = plain if isinstance(plain, dict) else {}
    state = plain.get("state_dict", plain)
    given = {
        str(name): tensor
        for name, tensor in (state if isinstance(state, dict) else {}).items()
        if isinstance(tensor, torch.Tensor)
    }
    tensors = {_unwrapped(name): tensor for name, tensor in given.items()}
    if len(tensors) < len(given):
        raise UserError(f"{path} contains a network both wrapped and unwrapped; give a file of one state_dict")
    # A tensor of any size may be a view that repeats a few bytes.
    for name, tensor in tensors.items():
        if (
            tensor.layout is not torch.strided
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise UserError(f"{path}: {name} is larger than its data in the file; give a final.pt")
    if not tensors:
        raise UserError(f"{path} contains no state_dict of tensors; give the final.pt that the original saved")
    args = plain.get("args")
    args = args if isinstance(args, dict) else vars(args) if isinstance(args, Namespace) else {}
    args = {name: value for name, value in args.items() if value is not None}
    exported = plain.get("supsup_jax")
    accuracies = plain.get("curr_acc1"), plain.get("best_acc1")
    return File(path, tensors, args, accuracies, exported if isinstance(exported, dict) else {})


def _unwrapped(name: str) -> str:
    """Remove names of wrappers, such as `DataParallel` and `torch.compile`, from a tensor's name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _check_archive(path: Path) -> None:
    """Verify the checksums of an archive's members, which PyTorch does not.

    Raises:
        ValueError: if a checksum differs, or a member is compressed, which PyTorch's files never are.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("its parts are compressed")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} does not match")
