"""Explanations of numbers that differ from the paper's: a sentence for each, from a measurement."""

UNEXPLAINED = "unexplained"

SENTENCES: dict[tuple[str, range], str] = {}
"""The sentence by the name of the curve and the numbers of tasks learned for which it holds."""


def explain(curve: str, tasks: int) -> str:
    """The sentence that explains why the accuracy of a curve differs from the paper's after this number of tasks."""
    found = (sentence for (name, counts), sentence in SENTENCES.items() if name == curve and tasks in counts)
    return next(found, UNEXPLAINED)
