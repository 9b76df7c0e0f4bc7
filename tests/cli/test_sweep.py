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
    """Return whether a condition holds within a minute."""
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
    """Return a function that starts a shell script for each run instead of training, with the run's folder as $1."""

    def command(folder):
        return ["bash", "-c", scripts[int(folder.name[-1])], "run", str(folder)]

    return command


def run(members, scripts, sets=(None,), show=lambda members: None):
    sweep.run(members, list(sets), show, lambda _: None, scripted(scripts))


SET = 'echo "$CUDA_VISIBLE_DEVICES" > "$1/set"; '


def test_each_run_uses_the_next_free_set(members):
    until_the_last = SET + 'until [ -e "$1/../seed=2/set" ]; do sleep 0.05; done'
    run(members, [until_the_last, SET, SET], ["0,1", "2"])
    assert [(member.folder / "set").read_text().strip() for member in members] == ["0,1", "2", "2"]
    assert [member.state for member in members] == ["finished"] * 3
    assert [member.where for member in members] == ["on set 0,1", "on set 2", "on set 2"]


def test_on_a_cpu_runs_are_sequential_and_inherit_visible_devices(members, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    note = SET + 'echo "${1: -1}" >> "$1/../order"'
    run(members, [note] * 3)
    assert (members[0].folder.parent / "order").read_text().split() == ["0", "1", "2"]
    assert (members[0].folder / "set").read_text() == "7\n"


def test_a_failed_run_stops_no_other_and_its_last_lines_are_printed(members, capsys):
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


def test_a_finished_run_is_not_started_again(members):
    finish(members[1].folder)
    (members[2].folder / "metrics.jsonl").write_text("damaged")
    again = [sweep.Member(member.folder, member.evaluations) for member in members]
    longer = sweep.Member(members[1].folder, [2, 3])
    assert [member.state for member in [*again, longer]] == ["waiting", "finished", "waiting", "waiting"]
    run(again, ['touch "$1/started"'] * 3)
    assert [(member.folder / "started").exists() for member in again] == [True, False, True]
    assert [member.state for member in again] == ["finished"] * 3


UNTIL_SIGTERM = 'trap "echo saved >> $1/output; exit 130" TERM; touch "$1/ready"; while :; do sleep 0.05; done'
UNTIL_SECOND_SIGTERM = (
    'trap "echo signal >> $1/output; [ \\$(wc -l < $1/output) = 1 ] || exit 130" TERM; touch "$1/ready"; '
    "while :; do sleep 0.05; done"
)
IGNORES_SIGTERM = 'trap "" TERM; touch "$1/ready"; while :; do sleep 0.05; done'


@pytest.fixture
def interrupting():
    """Return a function that makes a `show` which interrupts once the first run works, and again on a condition."""
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


def test_an_interrupted_sweep_starts_no_run_and_lets_others_save(members, interrupting):
    with pytest.raises(KeyboardInterrupt):
        run(members, [UNTIL_SIGTERM] * 3, show=interrupting())
    assert [member.state for member in members] == ["interrupted", "waiting", "waiting"]
    assert (members[0].folder / "output").read_text() == "saved\n"
    assert not (members[1].folder / sweep.LOG).exists()


def test_a_run_that_completes_after_the_interruption_is_finished(members, interrupting):
    run(members[:1], [UNTIL_SIGTERM.replace("130", "0")], show=interrupting())
    assert members[0].state == "finished"


def test_a_second_interruption_stops_running_runs(members, interrupting):
    with pytest.raises(KeyboardInterrupt):
        show = interrupting(lambda members: (members[0].folder / "output").exists())
        run(members, [UNTIL_SECOND_SIGTERM] * 3, show=show)
    assert (members[0].folder / "output").read_text() == "signal\n" * 2
    assert members[0].state == "interrupted"


def test_a_second_interruption_kills_runs_that_ignore_sigterm(members, interrupting, monkeypatch):
    monkeypatch.setattr(sweep, "_PATIENCE", 0.5)
    with pytest.raises(KeyboardInterrupt):
        run(members, [IGNORES_SIGTERM] * 3, show=interrupting(lambda members: True))
    assert [member.state for member in members] == ["interrupted", "waiting", "waiting"]


def test_a_run_interrupted_from_outside_stops_no_other(members):
    with pytest.raises(KeyboardInterrupt):
        run(members, ["kill $$; sleep 60", "exit 143", "true"])
    assert [member.state for member in members] == ["interrupted", "interrupted", "finished"]


def test_ctrl_c_in_the_terminal_does_not_reach_a_run(members):
    with sweep.start(members[0].folder, ["sleep", "60"]) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.kill()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux sends a process a signal when its parent dies"
)
def test_a_run_is_sent_sigterm_when_the_sweep_dies(members):
    folder = members[0].folder
    starting = (
        "import pathlib, sys, time; from supsup_jax.cli import sweep; "
        "sweep.start(pathlib.Path(sys.argv[1]), ['bash', '-c', sys.argv[2], 'run', sys.argv[1]]); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starting, str(folder), UNTIL_SIGTERM]) as process:
        assert waited_for((folder / "ready").exists)
        process.kill()
    assert waited_for((folder / "output").exists)


@pytest.mark.parametrize(
    ("text", "sets"),
    [("0", ["0"]), ("0|1", ["0", "1"]), ("0,1|2,3", ["0,1", "2,3"]), (" 0 , 2 | GPU-a1/b:0 ", ["0,2", "GPU-a1/b:0"])],
)
def test_sets_are_separated_by_bars_and_their_devices_by_commas(text, sets):
    assert sweep.parse_sets(text) == sets


@pytest.mark.parametrize("text", ["", "|", "0||1", "0,|1", "0 1", "0;1"])
def test_invalid_sets_raise_one_clear_error(text):
    with pytest.raises(UserError, match=r'such as "0,1\|2,3"'):
        sweep.parse_sets(text)


def test_a_device_in_two_sets_raises_one_clear_error():
    with pytest.raises(UserError, match="device 1 is repeated"):
        sweep.parse_sets("0,1|1,2")


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A fake machine on which JAX can use GPUs and nvidia-smi lists two."""
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


def test_if_jax_is_configured_for_the_cpu_that_is_the_only_set(gpus):
    jax.config.update("jax_platforms", "cpu")
    assert sweep.all_devices() == [None]


def test_without_a_terminal_a_line_is_printed_when_a_run_advances(members, capsys):
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
