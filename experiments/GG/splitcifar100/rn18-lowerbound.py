"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: the lower bound, one trunk trained on with a head a task.

Reproduces: the lower bound that the text gives beside Figure 2, right.

Command:    python experiments/GG/splitcifar100/rn18-lowerbound.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     a day or more on two CPU cores (estimated; no full run was made). The paper has 24.5 % after 20 tasks.
"""

from pathlib import Path

import supsup_jax as ss
from supsup_jax.runs.settings import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parent / "configs/rn18-lowerbound.yaml")

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
