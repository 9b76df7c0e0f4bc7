"""Conversion between runs and `final.pt` files of the original PyTorch implementation.

The arrays that the original stores for task t of a layer determine the method of a file:

| arrays | the original's layers | method here |
| --- | --- | --- |
| `scores.t` | FastMultitaskMaskConv, StackedFastMultitaskMaskConv (masks of scores of at least 0) | SupSup |
| `scores.t`, or `scores` of one task | MultitaskMaskConv, MaskConv (masks of the largest scores) | SupSup, Transfer |
| `s.t`, `t.t` | BatchEnsembles, VectorizedBatchEnsembles | BatchE |
| `scores.t` of the last layer | IndividualHeads | SeparateHeads |
| `scores.t` of batch norm | FastHopMaskBN | HopSupSup |
| none | StandardConv: one network for all tasks | LowerBound |
| `contexts.t`, or several of these | PSPRotation | UpperBound |

The original stores arbitrary rotations, but PSP here stores the keys that rotations are drawn from. So PSP files become
UpperBound runs, with the rotated weights of each task: predictions are the same, but the run cannot learn further tasks
as PSP. Masks of one density for all layers can be read, but the run learns further tasks with masks of scores of at
least 0.
"""

from supsup_jax.compat.torch.exporting import export_torch
from supsup_jax.compat.torch.importing import import_torch

__all__ = ["export_torch", "import_torch"]
