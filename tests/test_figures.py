import numpy as np
from matplotlib.image import imread
from test_results import evaluation

from supsup_jax import figures
from supsup_jax.results import Record


def test_a_run_is_drawn_whatever_its_ending(tmp_path):
    gradients = np.random.default_rng(0).normal(size=(2, 5))
    for ending in ("png", "pdf"):
        path = tmp_path / f"run.{ending}"
        figures.draw_run(path, "a run", Record([], [evaluation(3), evaluation(5)]), gradients, [1, 4])
        assert path.stat().st_size > 5000
    figures.draw_accuracy(tmp_path / "accuracy.pdf", "a run", Record([], [evaluation(3)]), {3: 90.0, 5: 89.0})
    assert (tmp_path / "accuracy.pdf").stat().st_size > 5000
    picture = imread(tmp_path / "run.png")
    assert picture.shape[:2] == (630, 1500)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 50
