"""Runs from the original's `final.pt` files, and back.

What the original keeps of task t for a layer says which method a file is of:

| kept | the original's layers | method here |
| --- | --- | --- |
| `scores.t` | FastMultitaskMaskConv, StackedFastMultitaskMaskConv (masks of scores of at least 0) | SupSup |
| `scores.t`, or `scores` of one task | MultitaskMaskConv, MaskConv (masks of the largest) | SupSup, Transfer |
| `s.t`, `t.t` | BatchEnsembles, VectorizedBatchEnsembles | BatchE |
| `scores.t` of the last layer | IndividualHeads | SeparateHeads |
| `scores.t` of batch norm | FastHopMaskBN | HopSupSup |
| nothing | StandardConv: one network for all tasks | LowerBound |
| `contexts.t`, or several of these | PSPRotation | UpperBound |

Rotations are any orthogonal matrices there, and PSP here keeps a key that they are drawn from: so each task gets, as a
network of its own, what its rotation makes of the weights. That predicts the same, but does not go on learning as PSP.
Masks of one density for all layers are read, but a run of them goes on learning with masks of scores of at least 0.
"""

from supsup_jax.compat.torch.exporting import export_torch
from supsup_jax.compat.torch.importing import import_torch

__all__ = ["export_torch", "import_torch"]
