"""Small experiments come out as they did when `stored/numbers.json` was written, up to rounding, on any machine and
with any versions of JAX and the libraries beside it. What they learn with does not amplify rounding, as RMSprop would,
whose steps are as long where a gradient is nearly nothing.

`python tests/test_numbers.py` writes the file anew, after a change that is to change what is learned.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import supsup_jax as ss
from supsup_jax import data, scenarios
from supsup_jax.experiment import Experiment

STORED = Path(__file__).parent / "stored/numbers.json"
BY_THRESHOLD = Experiment(
    "numbers",
    dataset="digits",
    width=0.1,
    features=12,
    initializer="kaiming_normal",
    optimizer="SGD",
    learning_rate=0.3,
    num_tasks=3,
    steps=100,
    batch_size=32,
    eval_at=(3,),
)
EXPERIMENTS = {
    "SupSup by threshold": BY_THRESHOLD,
    "SupSup by density": dataclasses.replace(BY_THRESHOLD, er_scale=4.0),
    "BatchE": dataclasses.replace(BY_THRESHOLD, method="BatchE", scenario="GG"),
}


def numbers(name: str, folder: Path) -> dict:
    """What an experiment leaves: losses, accuracies, and what is kept of its tasks."""
    experiment = EXPERIMENTS[name]
    record = scenarios.loop_of(experiment).run(experiment, data.load_digits(), folder, 2).record
    (evaluation,) = record.evaluations
    kept = [np.asarray(leaf) for leaf in jax.tree.leaves(ss.restore(folder).store)]
    masks = kept[0].dtype == np.uint8
    return {
        "losses": [task.loss for task in record.tasks],
        "given": evaluation.given,
        "inferred": evaluation.inferred or [],
        "kept": [leaf.tobytes().hex() if masks else leaf.sum(axis=-1).tolist() for leaf in kept],
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_comes_out_as_it_did(name, tmp_path):
    found, expected = numbers(name, tmp_path), json.loads(STORED.read_text())[name]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(found["given"], expected["given"], atol=2.5 / 359)  # two of the test images
    np.testing.assert_allclose(found["inferred"], expected["inferred"], atol=2.5 / 359)
    for own, stored in zip(found["kept"], expected["kept"], strict=True):
        if isinstance(own, str):
            own, stored = (np.frombuffer(bytes.fromhex(bits), np.uint8) for bits in (own, stored))
            assert np.bitwise_count(own ^ stored).sum() <= 3
        else:
            np.testing.assert_allclose(own, stored, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    with tempfile.TemporaryDirectory() as runs:
        STORED.write_text(json.dumps({name: numbers(name, Path(runs, name)) for name in EXPERIMENTS}) + "\n")
