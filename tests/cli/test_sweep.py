import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from supsup_jax import UserError
from supsup_jax.cli import console, sweep


def waited_for(condition):
    """Whether a condition holds after at most a minute."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def members(tmp_path):
    """Three runs in new folders, each of two tasks."""
    folders = [tmp_path / f"seed={seed}" for seed in range(3)]
    for folder in folders:
        folder.mkdir()
    return [sweep.Member(folder, [2]) for folder in folders]


def scripted(scripts):
    """Stands in for training: a run executes the shell script of its place, with its folder as $1."""

    def command(folder):
        return ["bash", "-c", scripts[int(folder.name[-1])], "run", str(folder)]

    return command


def run(members, scripts, sets=(None,), show=lambda members: None):
    sweep.run(members, list(sets), show, lambda _: None, scripted(scripts))


SET = 'echo "$CUDA_VISIBLE_DEVICES" > "$1/set"; '


def test_each_run_goes_to_the_next_free_set(members):
    until_the_last = SET + 'until [ -e "$1/../seed=2/set" ]; do sleep 0.05; done'
    run(members, [until_the_last, SET, SET], ["0,1", "2"])
    assert [(member.folder / "set").read_text().strip() for member in members] == ["0,1", "2", "2"]
    assert [member.state for member in members] == ["finished"] * 3
    assert [member.where for member in members] == ["on set 0,1", "on set 2", "on set 2"]


def test_on_a_cpu_runs_go_in_order_and_keep_the_devices_of_this_process(members, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    note = SET + 'echo "${1: -1}" >> "$1/../order"'
    run(members, [note] * 3)
    assert (members[0].folder.parent / "order").read_text().split() == ["0", "1", "2"]
    assert (members[0].folder / "set").read_text() == "7\n"


def test_a_run_that_fails_stops_no_other_and_its_last_lines_are_shown(members, capsys):
    run(members, ["true", "seq 100; echo it broke >&2; exit 3", "echo fine"])
    assert [member.state for member in members] == ["finished", "failed", "finished"]
    assert (members[1].folder / sweep.LOG).read_text().splitlines()[-1] == "it broke"
    console.show_failures(members)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"seed=1 failed; the end of {members[1].folder / sweep.LOG}:"
    assert [line.strip() for line in shown[1:]] == [*map(str, range(82, 101)), "it broke"]


def finish(folder):
    lines = [{"kind": "task", "task": 0}, {"kind": "evaluation", "num_tasks": 2}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_is_finished_is_not_started_again(members):
    finish(members[1].folder)
    (members[2].folder / "metrics.jsonl").write_text("damaged")
    again = [sweep.Member(member.folder, member.evaluations) for member in members]
    longer = sweep.Member(members[1].folder, [2, 3])
    assert [member.state for member in [*again, longer]] == ["waiting", "finished", "waiting", "waiting"]
    run(again, ['touch "$1/started"'] * 3)
    assert [(member.folder / "started").exists() for member in again] == [True, False, True]
    assert [member.state for member in again] == ["finished"] * 3


UNTIL_TOLD = 'trap "echo saved >> $1/said; exit 130" TERM; touch "$1/ready"; while :; do sleep 0.05; done'
TOLD_TWICE = (
    'trap "echo told >> $1/said; [ \\$(wc -l < $1/said) = 1 ] || exit 130" TERM; touch "$1/ready"; '
    "while :; do sleep 0.05; done"
)
DEAF = 'trap "" TERM; touch "$1/ready"; while :; do sleep 0.05; done'


@pytest.fixture
def interrupting():
    """Makes a `show` that interrupts when the first run is at work, and again when something holds."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def make(again=None):
        conditions = [lambda members: (members[0].folder / "ready").exists()] + [again] * (again is not None)

        def show(members):
            if conditions and conditions[0](members):
                conditions.pop(0)
                signal.raise_signal(signal.SIGINT)

        return show

    yield make
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_sweep_starts_no_run_and_lets_running_ones_save(members, interrupting):
    with pytest.raises(KeyboardInterrupt):
        run(members, [UNTIL_TOLD] * 3, show=interrupting())
    assert [member.state for member in members] == ["interrupted", "waiting", "waiting"]
    assert (members[0].folder / "said").read_text() == "saved\n"
    assert not (members[1].folder / sweep.LOG).exists()


def test_what_ends_by_itself_although_an_end_was_asked_for_is_finished(members, interrupting):
    run(members[:1], [UNTIL_TOLD.replace("130", "0")], show=interrupting())
    assert members[0].state == "finished"


def test_interrupted_twice_a_sweep_ends_what_runs(members, interrupting):
    with pytest.raises(KeyboardInterrupt):
        run(members, [TOLD_TWICE] * 3, show=interrupting(lambda members: (members[0].folder / "said").exists()))
    assert (members[0].folder / "said").read_text() == "told\n" * 2
    assert members[0].state == "interrupted"


def test_interrupted_twice_a_sweep_ends_what_does_not_hear_too(members, interrupting, monkeypatch):
    monkeypatch.setattr(sweep, "_PATIENCE", 0.5)
    with pytest.raises(KeyboardInterrupt):
        run(members, [DEAF] * 3, show=interrupting(lambda members: True))
    assert [member.state for member in members] == ["interrupted", "waiting", "waiting"]


def test_a_run_that_something_else_interrupts_stops_no_other(members):
    with pytest.raises(KeyboardInterrupt):
        run(members, ["kill $$; sleep 60", "exit 143", "true"])
    assert [member.state for member in members] == ["interrupted", "interrupted", "finished"]


def test_the_terminals_interrupt_does_not_reach_a_run(members):
    with sweep.start(members[0].folder, ["sleep", "60"]) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.kill()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere nothing tells a process that its parent died"
)
def test_a_run_is_told_when_the_sweep_has_died(members):
    folder = members[0].folder
    starting = (
        "import pathlib, sys, time; from supsup_jax.cli import sweep; "
        "sweep.start(pathlib.Path(sys.argv[1]), ['bash', '-c', sys.argv[2], 'run', sys.argv[1]]); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starting, str(folder), UNTIL_TOLD]) as process:
        assert waited_for((folder / "ready").exists)
        process.kill()
    assert waited_for((folder / "said").exists)


@pytest.mark.parametrize(
    ("text", "sets"),
    [("0", ["0"]), ("0|1", ["0", "1"]), ("0,1|2,3", ["0,1", "2,3"]), (" 0 , 2 | GPU-a1/b:0 ", ["0,2", "GPU-a1/b:0"])],
)
def test_sets_are_separated_by_bars_and_their_devices_by_commas(text, sets):
    assert sweep.parse_sets(text) == sets


@pytest.mark.parametrize("text", ["", "|", "0||1", "0,|1", "0 1", "0;1"])
def test_sets_that_are_not_understood_are_one_clear_error(text):
    with pytest.raises(UserError, match=r'such as "0,1\|2,3"'):
        sweep.parse_sets(text)


def test_a_device_in_two_sets_is_one_clear_error():
    with pytest.raises(UserError, match="has device 1 twice"):
        sweep.parse_sets("0,1|1,2")


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine on which JAX can use GPUs, with an nvidia-smi that lists two."""
    jax.config.update("jax_platforms", None)
    plugin = importlib.metadata.EntryPoint("xla_cuda12", "jax_plugins.xla_cuda12", "jax_plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plugin] if group == "jax_plugins" else [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    listed = ["GPU 0: Some GPU (UUID: GPU-a)", "  MIG 1g.5gb Device 0: (UUID: MIG-b)", "GPU 1: Some GPU (UUID: GPU-c)"]
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in listed))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    yield program
    jax.config.update("jax_platforms", "cpu")  # as in conftest.py


def test_by_default_every_gpu_is_a_set(gpus):
    assert sweep.all_devices() == ["0", "1"]


@pytest.mark.parametrize(("visible", "sets"), [("3,GPU-x", ["3", "GPU-x"]), ("", [None]), ("-1", [None])])
def test_by_default_every_visible_gpu_is_a_set(gpus, monkeypatch, visible, sets):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert sweep.all_devices() == sets


def test_without_gpus_the_cpu_is_the_only_set(gpus, monkeypatch):
    gpus.write_text("#!/bin/sh\necho 'No devices found'\nexit 6\n")
    assert sweep.all_devices() == [None]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    assert sweep.all_devices() == [None]


def test_where_jax_is_to_compute_on_the_cpu_that_is_the_only_set(gpus):
    jax.config.update("jax_platforms", "cpu")
    assert sweep.all_devices() == [None]


def test_lines_say_when_a_run_has_come_further(members, capsys):
    members[0].run("on set 0")
    log = members[0].folder / sweep.LOG
    with console.SweepTable("runs", "interrupted") as show:
        show(members[:1])
        log.write_text("seed=0 1/2 tasks: learning task 1 (9 steps/s)\n")
        show(members[:1])
        log.write_text("seed=0 1/2 tasks: evaluating 1 tasks\n")
        show(members[:1])
        members[0].end("finished")
        show(members[:1])
    assert capsys.readouterr().out.splitlines() == [
        "seed=0 running on set 0",
        "seed=0 running on set 0: 1/2 tasks: learning task 1 (9 steps/s)",
        "seed=0 finished: 2/2 tasks",
    ]


def test_on_a_terminal_a_table_shows_every_run(members, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    members[0].run("on set 0")
    (members[0].folder / sweep.LOG).write_text("seed=0 1/2 tasks: learning task 1\nTraceback\n")
    members[1].end("failed")
    with console.SweepTable("runs", "interrupted") as show:
        show(members)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("running on set 0", "1/2", "Traceback", "failed", "seed=2", "waiting"))
