"""Small experiments reproduce the numbers in `stored/numbers.json`, up to rounding.

This holds on any machine and with any versions of JAX and other libraries. The experiments use SGD because RMSprop
amplifies rounding: its steps are long even if a gradient is almost zero. The number of compilations is stored too.

`python tests/runs/test_numbers.py` rewrites the file, after an intended change of the results or of the compilation. It
accepts names of experiments, to rewrite only these.

`python tests/runs/test_numbers.py --exact FILE` writes checksums of all results, which reveal any changed bit. To
compare two versions of the package, run it with both on one machine, and `diff` the files.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command line

import jax
import numpy as np
import pytest

from helpers.numbers import EXPERIMENTS, digests, measured, run
from helpers.tiers import thorough_but
from helpers.toys import write_small_imagenet

STORED = Path(__file__).parents[1] / "stored/numbers.json"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of a small ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    write_small_imagenet(folder)
    return folder


QUICK = ["SupSup by threshold"]
"""Experiments of the default tier."""

SOME = ["SupSup by threshold", "SupSup by density", "Transfer", "GNs", "NNs", "HopSupSup", "BatchE", "PSP", "ImageNet"]
"""At least one experiment per scenario. The others are marked `long`; `test_stored_runs.py` has a run of each."""

TEST_IMAGES = {"HopSupSup": 62, "ImageNet": 30}
"""Number of test images of the smallest task, if it is below 359."""


@pytest.fixture(scope="module", params=thorough_but(QUICK, EXPERIMENTS, long=EXPERIMENTS.keys() - set(SOME)))
def outcome(request, images, tmp_path_factory):
    """The current numbers of an experiment, the stored ones, and the tolerance of accuracies: two test images."""
    found = measured(request.param, tmp_path_factory.mktemp("run"), images)
    return found, json.loads(STORED.read_text())[request.param], 2.5 / TEST_IMAGES.get(request.param, 359)


def test_an_experiment_reproduces_its_stored_numbers(outcome):
    found, expected, two_images = outcome
    assert (found["stream"], found["bytes"]) == (expected["stream"], expected["bytes"])
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(found["given"], expected["given"], atol=two_images)
    np.testing.assert_allclose(found["inferred"], expected["inferred"], atol=two_images)
    np.testing.assert_allclose(found["picked"], expected["picked"], atol=0.02)
    for part in ("kept", "weights"):
        for leaf, stored in zip(found[part], expected[part], strict=True):
            if isinstance(leaf, str):
                bits, stored_bits = (np.frombuffer(bytes.fromhex(digits), np.uint8) for digits in (leaf, stored))
                assert np.bitwise_count(bits ^ stored_bits).sum() <= 3
            else:
                np.testing.assert_allclose(leaf, stored, rtol=1e-3, atol=1e-3)


def test_an_experiment_compiles_as_often_as_stored(outcome):
    found, expected, _ = outcome
    if expected["jax"] != jax.__version__:
        pytest.skip(f"the counts are those of JAX {expected['jax']}")
    assert found["compiled"] == expected["compiled"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--exact", type=Path, metavar="FILE", help="write checksums of all results to this file")
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), help="experiments; by default all")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_small_imagenet(Path(folder, "data"))
        for name in arguments.names:
            runs = Path(folder, name)
            runs.mkdir()
            if arguments.exact:
                run(name, runs, Path(folder, "data"))
                found[name] = digests(name, runs)
            else:
                found[name] = measured(name, runs, Path(folder, "data"))
    if arguments.exact:
        arguments.exact.write_text(json.dumps(found, indent=1) + "\n")
    else:
        stored = json.loads(STORED.read_text()) if STORED.exists() else {}
        lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in (stored | found).items()]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
