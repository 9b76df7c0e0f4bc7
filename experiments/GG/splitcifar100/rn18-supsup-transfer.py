"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: SupSup Transfer.

Reproduces: the SupSup Transfer curve of Figure 2, right, a point for each
            --sparsity.

Command:    python experiments/GG/splitcifar100/rn18-supsup-transfer.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     a day or more for each run on two CPU cores (estimated; no full run was made). The paper has this curve
            as a picture only, beside 88 to 91 % for SupSup at high sparsities.
"""

from pathlib import Path

import supsup_jax as ss
from supsup_jax.runs.settings import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parent / "configs/rn18-supsup-transfer.yaml")

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, er_scale=(1, 2, 4, 8, 16, 32))
