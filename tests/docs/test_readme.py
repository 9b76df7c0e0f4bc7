import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_of_the_readme_learns_and_infers_two_tasks():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    run, test, pixels = (names[name] for name in ("run", "test", "pixels"))
    shuffled = test.images.reshape(-1, 64)[:, pixels].reshape(-1, 8, 8, 1)
    assert run.num_tasks == 2
    for task, predicted in ((0, names["predicted"]), (1, run.predict(shuffled))):
        assert (predicted.tasks == task).mean() > 0.9
        assert (predicted.labels == test.labels).mean() > 0.85


def test_every_path_in_the_readme_exists():
    """Links are absolute, since PyPI shows this file too."""
    assert not re.search(r"\]\((?!http)|^\[[\w-]+\]: (?!http)", README, re.MULTILINE)
    paths = re.findall(r"supsup-jax/supsup_jax/(?:blob/)?main/([\w./-]+)", README)
    for path in (*paths, *re.findall(r"python (\S+\.py)", README)):
        assert (ROOT / path).exists(), path
    for script in re.findall(r"\| `(\w[\w/-]+/[\w-]+)` \|", README):
        assert (ROOT / "experiments" / f"{script}.py").is_file(), script


def test_the_readme_is_short_and_has_the_two_commands_of_ci():
    assert len(README.split()) < 800
    assert len(re.findall("^pip install -e", README, re.MULTILINE)) == 2
