import json
import os
import signal
import subprocess
import sys
import time

import pytest

from supsup_jax import data, interruption, scenarios
from supsup_jax.experiment import Experiment


@pytest.fixture(autouse=True)
def handled_by_python():
    """A shell's background jobs ignore Ctrl-C, and so do the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def wait_for(asked, times):
    """Another thread counts."""
    for _ in range(1000):
        if asked.times >= times:
            return
        time.sleep(0.01)
    pytest.fail(f"{asked.times} interruptions were counted, not {times}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_goes_on_hears_of_an_interruption_where_it_asks(number, status):
    announced = []
    with interruption.graceful(lambda: announced.append(True)) as asked:
        assert not interruption.asked()
        signal.raise_signal(number)
        wait_for(asked, 1)
        assert interruption.asked()
        signal.raise_signal(signal.SIGINT)
        wait_for(asked, 2)
        assert interruption.status_of(interruption.kind()()) == status
    assert announced == [True]
    assert not interruption.asked()


def test_signals_that_are_ignored_stay_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.graceful(lambda: None) as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        wait_for(asked, 1)
    assert asked.times == 1
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_is_held_back_reaches_at_the_end_who_handled_it_before():
    done = []
    with pytest.raises(KeyboardInterrupt), interruption.later():
        signal.raise_signal(signal.SIGINT)
        done.append("all")
    assert done == ["all"]


def test_a_save_is_counted_as_no_second_interruption():
    with interruption.graceful(lambda: None) as asked:
        with interruption.later():
            signal.raise_signal(signal.SIGINT)
        wait_for(asked, 1)
    assert asked.times == 1


IN_COMPILED_CODE = """
import hashlib
from supsup_jax import interruption
say = lambda word: lambda: print(word, flush=True)
with interruption.graceful(say("announced"), say("gave up")):
    print("began", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # like XLA, it lets other threads run and hears no signal
"""


@pytest.mark.parametrize(("first", "then"), [("INT", "TERM"), ("TERM", "INT")])
def test_the_second_interruption_ends_the_process_in_compiled_code_too(first, then):
    with subprocess.Popen([sys.executable, "-c", IN_COMPILED_CODE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.Signals[f"SIG{first}"])
        assert process.stdout.readline() == "announced\n"
        process.send_signal(signal.Signals[f"SIG{then}"])
        assert process.stdout.readline() == "gave up\n"
        assert process.wait() == {"INT": 130, "TERM": 143}[first]


def test_a_run_that_is_interrupted_saves_the_chunk_that_it_is_at_and_goes_on_later(tmp_path):
    experiment = Experiment("q", "digits", num_tasks=5, steps=5, batch_size=32, width=0.1, scenario="GG")
    digits = data.load_digits()

    def report(step):
        if step.message == "learning tasks 2 to 3":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(interruption.Terminated), interruption.graceful(lambda: None):
        scenarios.GivenTasks.run(experiment, digits, tmp_path, 2, report)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["task"] * 4
    outcome = scenarios.GivenTasks.run(experiment, digits, tmp_path, 2)
    assert [task.task for task in outcome.record.tasks] == list(range(5))
