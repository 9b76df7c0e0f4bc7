"""Explanations of numbers that differ from the paper's: a sentence for each, from a measurement."""

from supsup_jax.paper.published import FC_250, LENET_2500

UNEXPLAINED = "unexplained"

SENTENCES: dict[tuple[str, range], str] = {
    (f"{FC_250}/supsup_h", range(50, 101)): (
        "with the task given it has 96.26 after 100 tasks (seed 1), and with the task inferred image by image 96.02."
        " Picks from one image a batch, of which 99.57 % are right, cost 0.42 points; the paper's cost about half of"
        " that."
    ),
    (f"{LENET_2500}/upper_bound", range(10, 2501)): (
        "the number of outputs, or another recipe. For the same network after 10 tasks, the paper has 94.94 in Figure 3"
        " and 94.71 in Figure 4. Here it has 94.89 ± 0.04 with 10 outputs (5 seeds), 94.61 with 100 (seed 1) and 94.47"
        " with 500 (seeds 1 and 2). So Figure 4's bound was trained with more outputs than Figure 3's, or in another"
        " way."
    ),
    (f"{LENET_2500}/lower_bound", range(20, 51)): (
        "unexplained. From 4 to 100 tasks the accuracies here (5 seeds) are 0.2 to 2.9 points below the paper's, most"
        " of them within the error. The upper bound of this figure differs too, though the same training agrees with"
        " Figure 3."
    ),
}
"""The sentence by the name of the curve and the numbers of tasks learned for which it holds."""


def explain(curve: str, tasks: int) -> str:
    """The sentence that explains why the accuracy of a curve differs from the paper's after this number of tasks."""
    found = (sentence for (name, counts), sentence in SENTENCES.items() if name == curve and tasks in counts)
    return next(found, UNEXPLAINED)
