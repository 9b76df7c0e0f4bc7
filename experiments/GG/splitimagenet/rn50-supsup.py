"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: SupSup.

Reproduces: the SupSup rows of Figure 3, left (the table of Figure 2 in the camera-ready), for --sparsity 16, 8 and 4.

Command:    python experiments/GG/splitimagenet/rn50-supsup.py --gpu-sets "0,1|2,3" --data DIR

Expect:     TODO
"""

from pathlib import Path

from supsup_jax import launch
from supsup_jax.settings import load_experiment

if __name__ == "__main__":
    config = Path(__file__).parent / "configs/rn50-supsup.yaml"
    launch.main(load_experiment(config), description=__doc__, sparsities=(8, 4, 16, 32))
