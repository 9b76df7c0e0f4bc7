import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_library_examples_of_the_readme_run_and_infer_the_tasks():
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile("\n".join(examples), "README.md", "exec"), names)
    assert (names["learned"].accuracy[:, -1] > 0.9).all()
    assert names["used"].tolist() == [0] * 10
    few = names["digits"].test.labels[names["digits"].test.labels < 3]
    assert (names["told"].labels == few).mean() > 0.9
    assert (np.asarray(names["inferred"]) == np.repeat(np.arange(5), 20)).mean() > 0.9


def test_every_path_that_the_readme_names_exists():
    root = Path(__file__).parents[2]
    for path in re.findall(r"\]\((?!http)([^)]+)\)|python (\S+\.py)", README):
        assert (root / (path[0] or path[1])).exists(), path
