"""Files that cannot be imported: each gives one line, and executes no code."""

import math
import os
import sys
import zipfile

import numpy as np
import pytest

from helpers.torch_files import SUPSUP, final_pt, gemresnet18, lenet, tensors, torch
from supsup_jax import UserError, restore
from supsup_jax.compat.torch import export_torch, import_torch


class Malicious:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_execute_code_is_rejected(tmp_path, zipped):
    path, trap = tmp_path / "final.pt", tmp_path / "trap"
    content = {"state_dict": {"linear.0.weight": torch.ones(2, 2, 1, 1)}, "args": Malicious(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"mkdir, which could execute code; give a file with only its state_dict"):
        import_torch(path, tmp_path / "run")
    assert not trap.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_raises_a_one_line_error(tmp_path, zipped, share):
    path = tmp_path / "final.pt"
    torch.save({"state_dict": {"a": torch.ones(50, 50)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"final\.pt is damaged, or is not a file of PyTorch; copy it again") as error:
        import_torch(path, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_detected_by_the_zip_checksums(tmp_path):
    path = tmp_path / "final.pt"
    torch.save({"state_dict": {"a": torch.ones(500, 50)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"final\.pt is damaged, or is not a file of PyTorch"):
        import_torch(path, tmp_path / "run")


def test_a_compressed_file_is_rejected(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(500, 50)}}, tmp_path / "plain.pt")
    deflated = zipfile.ZipFile(tmp_path / "final.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, deflated as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"final\.pt is damaged, or is not a file of PyTorch"):
        import_torch(tmp_path / "final.pt", tmp_path / "run")


def test_a_tensor_that_repeats_a_few_bytes_is_rejected(tmp_path):
    torch.save({"state_dict": {"linear.0.weight": torch.ones(1).expand(1 << 20, 1 << 20)}}, tmp_path / "final.pt")
    with pytest.raises(UserError, match=r"linear\.0\.weight is larger than its data in the file"):
        import_torch(tmp_path / "final.pt", tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("wrong", [[1], "text", {"a": 1}, -1, 1e300, math.nan], ids=str)
def test_malformed_arguments_raise_a_one_line_error_or_are_unused(golden, tmp_path, wrong):
    state = lenet(golden("supermask_threshold.npz"), tasks=2)
    for number, name in enumerate({*SUPSUP, "sparsity", "trainer", "seed", "lr", "epochs", "name", "task_eval"}):
        args = SUPSUP | {"num_tasks": 2, "conv_type": "MultitaskMaskConv", "sparsity": 0.5} | {name: wrong}
        path = final_pt(tmp_path / f"{number}.pt", state, **args)
        try:
            import_torch(path, tmp_path / f"run{number}")
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "contains no state_dict of tensors"),
        ([1, 2], "contains no state_dict of tensors"),
        ({"state_dict": {"fc.weight": torch.ones(2, 2)}}, r"has no conv1\.weight"),
    ],
)
def test_files_without_a_run_are_rejected(tmp_path, content, message):
    torch.save(content, tmp_path / "final.pt")
    with pytest.raises(UserError, match=message):
        import_torch(tmp_path / "final.pt", tmp_path / "run", benchmark="own")


def test_a_missing_file_raises_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match=r"final\.pt is not a file; give the final\.pt that the original saved"):
        import_torch(tmp_path / "final.pt", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"linear.2.weight": np.ones((10, 31, 1, 1))}, {}, r"linear\.2\.weight has shape \(10, 31, 1, 1\), but the"),
        ({"linear.2.scores.3": np.ones((9, 30, 1, 1))}, {}, r"linear\.2\.scores\.3 has shape \(9, 30, 1, 1\)"),
        ({"linear.2.bias": np.ones(10)}, {}, r"has linear\.2\.bias, which LeNet does not have"),
        ({}, {"network": "FC1024"}, r"linear\.2\.weight has shape"),
        ({}, {"width": 0.2}, r"linear\.0\.weight has shape"),
        ({}, {"features": 10}, r"linear\.4\.weight has shape"),
        ({}, {"num_tasks": 7}, "has 6 learned tasks; give at most num_tasks=6"),
        (
            {},
            {"method": "BatchE"},
            "method BatchE does not fit; leave method out, or give SupSup or Transfer or UpperBound",
        ),
        ({}, {"method": "SupSub"}, "no method SupSub; did you mean SupSup"),
        ({}, {"colour": 1}, "sets colour, which does not exist"),
    ],
)
def test_contents_that_do_not_fit_raise_a_one_line_error(golden, tmp_path, change, settings, message):
    state = lenet(golden("supermask_threshold.npz")) | change
    path = final_pt(tmp_path / "final.pt", state, **SUPSUP)
    with pytest.raises(UserError, match=message) as error:
        import_torch(path, tmp_path / "run", **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_importing_masks_of_a_resnet_requires_their_density(golden, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(tensors(gemresnet18(golden("gemresnet18_mask.npz"), "scores")), path)
    with pytest.raises(UserError, match=r"does not store the density of masks; give er_scale="):
        import_torch(path, tmp_path / "run", benchmark="SplitCIFAR100")


def test_unknown_tasks_are_rejected_unless_declared_user_supplied(golden, tmp_path):
    state = lenet(golden("supermask_threshold.npz"))
    path = final_pt(tmp_path / "final.pt", state, **SUPSUP | {"set": "RotatingMNIST"})
    with pytest.raises(UserError, match=r"has 6 tasks of RotatingMNIST, an unknown benchmark"):
        import_torch(path, tmp_path / "run")
    assert restore(import_torch(path, tmp_path / "run", benchmark="own")).inputs.num_classes == 20


def test_a_folder_that_contains_a_run_is_left_alone(supsup, tmp_path):
    with pytest.raises(UserError, match="already contains a run"):
        import_torch(tmp_path / "final.pt", tmp_path / "run")


def test_without_pytorch_the_error_explains_how_to_install_it(supsup, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (
        lambda: import_torch(tmp_path / "final.pt", tmp_path / "b"),
        lambda: export_torch(supsup[0], tmp_path),
    ):
        with pytest.raises(UserError, match=r"requires torch \(.*\); install with: pip install 'supsup_jax\[torch\]'"):
            call()


def test_a_failed_export_keeps_the_existing_file(supsup, tmp_path, monkeypatch):
    path = tmp_path / "back.pt"
    path.write_bytes(b"before")
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_torch(supsup[0], path)
    assert path.read_bytes() == b"before"
