import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

LEARNS = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--log-dir") + 1]) / "name/seed=1"
folder.mkdir(parents=True)
(folder / "settings.yaml").write_text("experiment: {num_tasks: 2500}")
task = {"kind": "task", "task": 0, "accuracy": 0.9, "seconds": 2.0}
evaluation = {"kind": "evaluation", "num_tasks": 1, "seconds": 1.0, "training_seconds": 2.0, "inferred": 0.875}
lines = [json.dumps(line) for line in (task, evaluation)]
(folder / "metrics.jsonl").write_text("\\n".join([*lines, '{"kind": "ta']))  # killed within a line
"""
FAILS = "import sys; print('what it said last'); sys.exit(3)"
WAITS = "import os; print('process', os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The benchmark module, with three parts that start quickly, and folders for data and output."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    programs = {"learns": LEARNS, "fails": FAILS, "waits": LEARNS + WAITS}
    (tmp_path / "experiments").mkdir()
    (tmp_path / "data").mkdir()
    for name, text in programs.items():
        (tmp_path / f"experiments/{name}.py").write_text(text)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    monkeypatch.setattr(gpu, "PARTS", {name: gpu.Part(f"experiments/{name}.py", (), (), 0.0) for name in programs})
    return gpu


def call(gpu, tmp_path, *parts, minutes=1.0):
    arguments = ["--data", tmp_path / "data", "--minutes", minutes, "--output", tmp_path / "out/gpu", "--parts", *parts]
    return gpu.main([str(argument) for argument in arguments])


def report(tmp_path):
    return json.loads((tmp_path / "out/gpu.json").read_text())["parts"], (tmp_path / "out/gpu.md").read_text()


def test_failed_part_is_reported_and_the_next_one_runs(gpu, tmp_path):
    assert call(gpu, tmp_path, "fails", "learns") == 1
    parts, text = report(tmp_path)
    assert parts["fails"]["outcome"] == "failed: exit status 3" and parts["fails"]["log"] == ["what it said last"]
    assert parts["learns"]["outcome"] == "finished" and parts["learns"]["measured"]["tasks_learned"] == 1
    assert "what it said last" in text
    assert "Tasks learned: 1 of 2,500" in text and "| 1 | 2.0 | 1.0 |  | 87.50 |  |  |" in text


def test_part_without_enough_time_is_left_out_and_named(gpu, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "waits", gpu.Part("experiments/waits.py", (), (), least=61.0))
    assert call(gpu, tmp_path, "waits", "learns") == 0
    parts, text = report(tmp_path)
    assert parts["waits"]["outcome"].startswith("skipped: ") and "needs 61 s" in text
    assert list(parts) == ["waits", "learns"] and parts["learns"]["outcome"] == "finished"


def test_part_at_its_time_limit_is_reported_with_its_saved_results(gpu, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "waits", gpu.Part("experiments/waits.py", (), (), least=0.0, share=0.05))
    assert call(gpu, tmp_path, "waits", "learns") == 0
    parts, _ = report(tmp_path)
    assert parts["waits"]["outcome"] == "stopped: its 3 s were up" and parts["waits"]["seconds"] < 20
    assert parts["waits"]["measured"]["tasks_learned"] == 1
    assert parts["learns"]["outcome"] == "finished"


def test_report_is_complete_before_and_after_each_part(gpu, tmp_path, monkeypatch):
    outcomes, run_part = [], gpu.run_part

    def reading(*arguments):
        outcomes.append([part["outcome"] for part in report(tmp_path)[0].values()])
        return run_part(*arguments)

    monkeypatch.setattr(gpu, "run_part", reading)
    call(gpu, tmp_path, "learns", "fails")
    assert outcomes == [["not started", "not started"], ["finished", "not started"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--parts": "cifar10"}, "cifar10"),
        ({"--data": "nowhere"}, "--data nowhere: not a folder"),
        ({"--minutes": "0"}, "--minutes 0"),
        ({"--minutes": "nan"}, "--minutes nan"),
        ({"--minutes": "soon"}, "soon"),
        ({"--output": ""}, "--output"),
        ({"--output": None}, "--output"),
        ({"--speed": "1"}, "--speed"),
    ],
)
def test_wrong_argument_gives_one_line(gpu, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = {"--data": "data", "--minutes": "1", "--output": "out/gpu", "--parts": "learns"} | change
    with pytest.raises(SystemExit) as end:
        gpu.main([text for pair in arguments.items() if pair[1] is not None for text in pair])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_sigterm_ends_the_part_and_leaves_a_complete_report(gpu, tmp_path):
    program = f"""
import sys; sys.path.insert(0, {str(BENCHMARKS)!r})
import pathlib, gpu
gpu.ROOT, gpu.GRACE = pathlib.Path({str(tmp_path)!r}), 1.0
gpu.PARTS = {{name: gpu.Part(f"experiments/{{name}}.py", (), (), 0.0) for name in ("waits", "learns")}}
sys.exit(gpu.main())
"""
    arguments = ["--data", "data", "--minutes", "1", "--output", "out/gpu", "--runs", "runs"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=tmp_path, env=os.environ)
    log = ""
    while not log.endswith("\n"):
        assert process.poll() is None
        time.sleep(0.05)
        log = "".join(path.read_text() for path in tmp_path.glob("runs/*/waits/log"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    parts, _ = report(tmp_path)
    assert parts["waits"]["outcome"] == "stopped: interrupted" and parts["waits"]["measured"]["tasks_learned"] == 1
    assert parts["learns"]["outcome"] == "not started"
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.split()[-1]), 0)
