"""Small experiments of every method and scenario, and the measurements of their runs."""

import dataclasses

import numpy as np

from helpers import adapter
from helpers.toys import HOPSUPSUP, small_dataset
from supsup_jax.evaluation import Evaluation
from supsup_jax.methods.supsup import SPARSE
from supsup_jax.runs import records

EXPERIMENT = adapter.experiment(
    "small", features=8, width=0.1, num_tasks=12, steps=30, batch_size=16, learning_rate=1e-2, eval_at=(3, 10)
)
SHORT = adapter.changed(EXPERIMENT, num_tasks=5, eval_at=(2, 4))
OTHERS = {
    "BatchE": adapter.changed(
        SHORT, method="BatchE", search="exhaustive", optimizer="Adam", weights_learning_rate=1e-2
    ),
    "PSP": adapter.changed(SHORT, method="PSP", scenario="GG", weights_learning_rate=1e-2),
    "UpperBound": adapter.changed(SHORT, method="UpperBound", scenario="GG"),
    "UpperBound that fine-tunes": adapter.changed(SHORT, method="UpperBound", scenario="GG", fine_tunes=True),
    "Transfer": adapter.changed(SHORT, method="Transfer", er_scale=2.0, scenario="GG", schedule="cosine"),
    "SeparateHeads": adapter.changed(
        SHORT, method="SeparateHeads", scenario="GG", optimizer="Adam", weights_learning_rate=1e-2
    ),
    "BatchE, Rand W": adapter.changed(SHORT, method="BatchE", random_weights=True, scenario="GG"),
    "LowerBound": adapter.changed(SHORT, method="LowerBound", scenario="GG", weights_learning_rate=1e-2),
    "FineTuning": adapter.changed(SHORT, method="FineTuning", scenario="GG", weights_learning_rate=1e-2),
    "HopSupSup": HOPSUPSUP,
    "SupSup, every task tried": adapter.changed(SHORT, search="exhaustive", num_tasks=3, eval_at=(2,)),
    "NNs": adapter.changed(SHORT, scenario="NNs", check_every=8, fewest_masks=2, novelty=1.05, images_per_task=9),
}
DATASET = small_dataset()


def measured(record):
    """Return a record without times."""
    plain = record.to_json()
    for entry in plain["tasks"] + plain["evaluations"]:
        for key in ("finished", "seconds", "training_seconds"):
            entry.pop(key, None)
    return plain


def dicts_without_saved(outcome):
    """Return the measurements, without the saved slots, which depend on the chunks."""
    plain = measured(outcome.record)
    for entry in plain["stream"]:
        entry.pop("saved")
    return plain


def evaluation(tasks):
    confusion = np.diag([3] * tasks)
    confusion[0, 1] = 1
    values = np.linspace(0.5, 1, tasks)
    measured = Evaluation(values, values / 2, values, values, values, confusion)
    result = records.EvaluationResult.begin(tasks).extend(1.5, measured)
    return dataclasses.replace(result, training_seconds=5.0, storage={"masks as bits": 8, SPARSE: 4})
