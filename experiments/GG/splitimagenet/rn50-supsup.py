"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: SupSup.

Reproduces: the SupSup rows of the table in Figure 2, left, a row for each --sparsity.

Command:    python experiments/GG/splitimagenet/rn50-supsup.py --gpu-sets "0,1|2,3" --data DIR

Expect:     one sparsity takes a GPU a day or more (estimated; no full run was made). The paper has 89.58, 88.68 and
            86.37 % for --sparsity 16, 8 and 4. With --tasks 0:100 every task is a run of its own,
            to be collected at the end.
"""

from pathlib import Path

import supsup_jax as ss
from supsup_jax.runs.settings import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parent / "configs/rn50-supsup.yaml")

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, er_scale=(8, 4, 16, 32))
