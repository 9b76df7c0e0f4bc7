"""Explanations of numbers that differ from the paper's, from measurements."""

from supsup_jax.paper.published import FC_250, LENET_2500

UNEXPLAINED = "unexplained"

SENTENCES: dict[tuple[str, range], str] = {
    (f"{FC_250}/supsup_h", range(50, 201)): (
        "inference from one image per batch. Accuracy with the task given is 96.25 to 96.27 after 50 to 250 tasks (seed"
        " 1). H infers the task correctly for 99.57, 99.42 and 99.37 % of the batches after 100, 150 and 200 tasks,"
        " which costs 0.42, 0.56 and 0.61 points; G, with the same masks, for 99.7 %, and agrees with the paper. In the"
        " paper H and G are equal up to 200 tasks; after 250 tasks H is lower, and agrees."
    ),
    (f"{FC_250}/psp", range(100, 101)): (
        "unexplained, with one seed. After 10 tasks, the standard deviation over five seeds is 0.22 with LeNet 300-100."
    ),
    (f"{LENET_2500}/upper_bound", range(10, 2501)): (
        "the number of outputs, or a different training recipe. For the same network after 10 tasks, the paper has"
        " 94.94 in Figure 3 and 94.71 in Figure 4. Here, accuracy is 94.89 ± 0.04 with 10 outputs (5 seeds), 94.61 with"
        " 100 (seed 1) and 94.47 with 500 (seeds 1 and 2). So the bound in Figure 4 was trained with more outputs than"
        " in Figure 3, or differently."
    ),
    (f"{LENET_2500}/supsup_h", range(1500, 2001)): (
        "inference from one image per batch. Accuracy with the task given is 93.49 after 2,000 tasks (seed 1). The task"
        " is inferred correctly for 99.88 % of the batches, which costs 0.11 points; in the paper it costs less, up to"
        " 2,000 tasks."
    ),
    (f"{LENET_2500}/lower_bound", range(20, 51)): (
        "unexplained. From 4 to 100 tasks, the accuracies here (5 seeds) are 0.2 to 2.9 points below the paper's; most"
        " differences are within the error. The upper bound of this figure differs too, although the same training"
        " agrees with Figure 3."
    ),
}
"""Explanations by the name of the curve and the range of numbers of tasks learned."""


def explain(curve: str, tasks: int) -> str:
    """Return why the accuracy of a curve differs from the paper's after this number of tasks."""
    found = (sentence for (name, counts), sentence in SENTENCES.items() if name == curve and tasks in counts)
    return next(found, UNEXPLAINED)
