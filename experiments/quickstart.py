"""SupSup in half a minute: 25 tasks in one random network, on digits that come with the package. No download.

Reproduces: the idea of Figure 3 of the paper, small. Each task shows handwritten digits (8 x 8) with its pixels in an
order of its own, and learns one binary mask over the same random weights. Then an image comes without its task.


Command:    python experiments/quickstart.py   (or supsup-jax quickstart, which needs no copy of the repository)

Expect:     half a minute on two cores; 97.5 % with the task given, 96 % with the task inferred among 25.
"""

from supsup_jax.cli.quickstart import EXPERIMENT, main

__all__ = ["EXPERIMENT"]

if __name__ == "__main__":
    main(__doc__)
