"""SupSup in under a minute: 25 tasks in one random network, on digits that come with the package. No download.

Reproduces: the idea of Figure 3 of the paper, small. Each task permutes the pixels of handwritten digits (8 x 8)
            differently, and learns one binary mask over the same random weights. In the evaluation, the network infers
            the task of the images.

Command:    python experiments/quickstart.py   (or supsup-jax quickstart, without the repository)

Expect:     11 seconds on two cores, and 7 seconds the next time, because compiled programs are cached. After 25 tasks:
            97.5 % with the task given, and with the task inferred from four images of each batch. If the task is
            inferred from every image alone: 96.7 %, with 99.2 % of the inferences correct.
"""

from supsup_jax.cli.quickstart import EXPERIMENT, main

__all__ = ["EXPERIMENT"]

if __name__ == "__main__":
    main(__doc__)
