import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import adapter
from supsup_jax import UserError, data
from supsup_jax.runs import train
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.scenarios import given
from supsup_jax.system import devices, interruption

QUICKSTART = Path(__file__).parents[2] / "experiments/quickstart.py"


@pytest.fixture(autouse=True)
def handled_by_python():
    """Install Python's handler of SIGINT: background jobs of a shell, and their processes, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def wait_for(asked, times):
    """Wait until another thread has counted this number of interruptions."""
    for _ in range(1000):
        if asked.times >= times:
            return
        time.sleep(0.01)
    pytest.fail(f"{asked.times} interruptions were counted, not {times}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruptions_are_counted_announced_and_can_be_queried(number, status):
    announced = []
    with interruption.graceful(announced.append) as asked:
        assert not interruption.is_requested()
        signal.raise_signal(number)
        wait_for(asked, 1)
        assert interruption.is_requested()
        signal.raise_signal(signal.SIGINT)
        wait_for(asked, 2)
        assert interruption.status_of(interruption.kind()()) == status
    assert announced == [math.inf if number == signal.SIGINT else 10]
    assert not interruption.is_requested()


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.graceful(lambda _: None) as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        wait_for(asked, 1)
    assert asked.times == 1
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_deferred_signal_reaches_the_previous_handler_at_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), interruption.delayed():
        signal.raise_signal(signal.SIGINT)
        done.append("all")
    assert done == ["all"]


def test_a_signal_during_a_save_is_counted_once():
    with interruption.graceful(lambda _: None) as asked:
        with interruption.delayed():
            signal.raise_signal(signal.SIGINT)
        wait_for(asked, 1)
    assert asked.times == 1


IN_COMPILED_CODE = """
import hashlib
from supsup_jax.system import interruption
say = lambda word: lambda *_: print(word, flush=True)
with interruption.graceful(say("announced"), say("gave up")):
    print("began", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # like XLA, it releases the GIL and handles no signal
"""


@pytest.mark.parametrize(("first", "then"), [("INT", "TERM"), ("TERM", "INT")])
def test_a_second_interruption_ends_the_process_even_in_compiled_code(first, then):
    with subprocess.Popen([sys.executable, "-c", IN_COMPILED_CODE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.Signals[f"SIG{first}"])
        assert process.stdout.readline() == "announced\n"
        process.send_signal(signal.Signals[f"SIG{then}"])
        assert process.stdout.readline() == "gave up\n"
        assert process.wait() == {"INT": 130, "TERM": 143}[first]


def test_after_sigterm_the_process_ends_when_the_grace_period_is_over():
    environment = os.environ | {interruption.GRACE: "0.5"}
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", IN_COMPILED_CODE], **pipes) as process:
        assert process.stdout.readline() == "began\n"
        for _ in range(3):  # repeated signals count once
            process.terminate()
        assert process.stdout.readline() == "announced\n"
        assert process.stdout.readline() == "gave up\n"
        assert process.wait() == 143


def test_repeated_sigterms_count_once_unless_they_are_seconds_apart(monkeypatch):
    now = 0.0
    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: now))
    with interruption.graceful(lambda _: None) as asked:
        for now, times in ((1000, 1), (1000.5, 1), (1002, 2)):  # noqa: B007
            signal.raise_signal(signal.SIGTERM)
            wait_for(asked, times)
            time.sleep(0.1)
            assert asked.times == times


def test_an_invalid_grace_period_is_rejected(monkeypatch):
    for text in ("soon", "-1", "nan", ""):
        monkeypatch.setenv(interruption.GRACE, text)
        with pytest.raises(UserError, match=f"{interruption.GRACE}={text}: must be"), interruption.graceful(print):
            pass


@pytest.mark.parametrize(
    "flags", ["--steps 1000000 --batch-size 16 --num-tasks 2", "--steps 2 --num-tasks 3000 --search exhaustive"]
)
@pytest.mark.thorough
def test_a_run_ends_soon_after_sigterm_in_training_and_evaluation(tmp_path, flags):
    """The task, and the evaluation, would take much longer."""
    command = [sys.executable, str(QUICKSTART), "--log-dir", str(tmp_path), *flags.split()]
    environment = os.environ | {interruption.GRACE: "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        for line in process.stdout:
            if ("learning tasks" if "1000000" in flags else "evaluating") in line:
                break
        time.sleep(1)
        process.terminate()
        began = time.monotonic()
        stdout, stderr = process.communicate()
        assert time.monotonic() - began < 30  # without the signal, it would take much longer
    assert process.returncode == 143
    assert "the current tasks are finished and saved first if that takes at most 1 s" in stdout
    assert stderr.startswith("interrupted; resume ") and stderr.count("\n") == 1


@pytest.mark.thorough
def test_sequential_tasks_are_saved_up_to_the_interrupted_one(tmp_path, monkeypatch):
    experiment = adapter.experiment(
        "q", "digits", method="LowerBound", num_tasks=5, steps=5, batch_size=32, width=0.1, scenario="GG"
    )
    digits, train, learned = data.load_digits(), given.in_turn_program, []

    def alone(*arguments):
        def learn(*task):
            learned.append(task)
            if len(learned) == 2:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.5)
            return train(*arguments)(*task)

        return learn

    monkeypatch.setattr(given, "in_turn_program", alone)
    with pytest.raises(KeyboardInterrupt), interruption.graceful(lambda _: None):
        adapter.run_experiment(experiment, digits, tmp_path, 5)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["task"] * 2
    outcome = adapter.run_experiment(experiment, digits, tmp_path, 5)
    assert len(learned) == 5
    (tmp_path / "whole").mkdir()
    whole = adapter.run_experiment(experiment, digits, tmp_path / "whole", 5)
    assert [task.loss for task in outcome.record.tasks] == [task.loss for task in whole.record.tasks]


def test_an_interrupted_run_saves_its_chunk_and_is_resumed(tmp_path):
    experiment = adapter.experiment("q", "digits", num_tasks=5, steps=5, batch_size=32, width=0.1, scenario="GG")
    digits = data.load_digits()

    def report(step):
        if step.message == "learning tasks 2 to 3":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(interruption.Terminated), interruption.graceful(lambda _: None):
        adapter.run_experiment(experiment, digits, tmp_path, 2, report)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["task"] * 4
    outcome = adapter.run_experiment(experiment, digits, tmp_path, 2)
    assert [task.task for task in outcome.record.tasks] == list(range(5))


def test_an_interrupted_evaluation_saves_the_evaluated_tasks(tmp_path, monkeypatch):
    experiment = adapter.experiment("q", "digits", num_tasks=5, steps=5, batch_size=32, width=0.1)
    digits = data.load_digits()
    monkeypatch.setattr(devices, "tasks_at_once", lambda *_: 2)

    def report(step):
        if step.message == "evaluating 5 tasks":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    monkeypatch.setattr(train, "stop_if_requested", lambda: None)  # as if the signal came a moment later
    with pytest.raises(interruption.Terminated), interruption.graceful(lambda _: None):
        adapter.run_experiment(experiment, digits, tmp_path, 5, report)
    assert len(Checkpoints(tmp_path).latest("evaluation")["evaluation"]["given"]) == 2
    outcome = adapter.run_experiment(experiment, digits, tmp_path, 5)
    assert len(outcome.record.evaluations[-1].given) == 5
