"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: the upper bound.

Reproduces: the upper bound's row of the table in Figure 2, left. The original has no
            script for it: the step size is that of SupSup.

Command:    python experiments/GG/splitimagenet/rn50-upperbound.py --data DIR

Expect:     a GPU a day or more (estimated; no full run was made). The paper has 92.55 %.
"""

from pathlib import Path

import supsup_jax as ss
from supsup_jax.runs.settings import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parent / "configs/rn50-upperbound.yaml")

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
