import pytest


@pytest.fixture
def supsup(golden, tmp_path):
    """The imported run of a LeNet of the original, and the arrays of its file."""
    from helpers.torch_files import SUPSUP, final_pt, lenet  # skips without PyTorch
    from supsup_jax import restore
    from supsup_jax.compat.torch import import_torch

    arrays = golden("supermask_threshold.npz")
    return restore(import_torch(final_pt(tmp_path / "final.pt", lenet(arrays), **SUPSUP), tmp_path / "run")), arrays
