import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.fixture
def benchmark(monkeypatch):
    """Import a program of benchmarks/; with `accelerated`, as on a machine with a GPU."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def load(name, accelerated=False):
        module = importlib.import_module(name)
        if accelerated:
            monkeypatch.setattr(importlib.import_module("peaks"), "is_accelerated", lambda: True)
        return module

    return load


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
    assert "| 0 | 90.00 | 0.03 |" in text


def test_floor_of_a_script_is_that_of_the_tasks_it_learned(gpu, tmp_path):
    part, measured = gpu.Part("experiments/learns.py", (), (), 0.0, operations=6e12), {"tasks_learned": 2}
    assert gpu.floor_of(part, measured, tmp_path / "tables.json") == []
    (tmp_path / "tables.json").write_text(json.dumps({"rates": {"float32": 1e12, "tf32": 4e12}}))
    (line,) = gpu.floor_of(part, measured, tmp_path / "tables.json")
    assert measured["floor_seconds"] == 3 and "3 s" in line and "4 TFLOP/s" in line
    assert gpu.floor_of(gpu.Part("benchmarks/run.py", (), (), 0.0), measured, tmp_path / "tables.json") == []


def test_part_without_enough_time_is_left_out_and_named(gpu, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "waits", gpu.Part("experiments/waits.py", (), (), least=61.0))
    assert call(gpu, tmp_path, "waits", "learns") == 0
    parts, text = report(tmp_path)
    assert parts["waits"]["outcome"].startswith("skipped: ") and "needs 61 s" in text
    assert list(parts) == ["waits", "learns"] and parts["learns"]["outcome"] == "finished"


def test_part_at_its_time_limit_is_reported_with_its_saved_results(gpu, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "waits", gpu.Part("experiments/waits.py", (), (), least=0.0, weight=0.05 / 0.95))
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


def test_every_part_of_the_list_is_selected_by_its_first_word(benchmark):
    gpu = benchmark("gpu")
    assert gpu.parts_named("lenet") == ["lenet-rates", "lenet-2500"]
    assert gpu.parts_named("cifar") == ["cifar-supsup", "cifar-heads"]
    assert gpu.parts_named("nns") == ["nns"] and not gpu.parts_named("res")
    words = ["device", "parity", "lenet", "inference", "fc", "resnet", "cifar", "nns"]
    assert [part for word in words for part in gpu.parts_named(word)] == list(gpu.PARTS)


def test_parts_find_the_rates_of_the_device_beside_their_folder(benchmark, tmp_path):
    command = benchmark("gpu").PARTS["inference"].command(False, tmp_path, tmp_path / "inference")
    assert command[command.index("--rates") + 1] == f"{tmp_path}/device/tables.json"


def test_suites_have_their_rows_of_a_gpu(benchmark):
    (case,) = benchmark("side_by_side", accelerated=True).cases()
    assert [name for name in case.formulations if name.startswith("supsup_jax")] == [
        f"supsup_jax, {count} task{'s' * (count > 1)}" for count in (1, 8, 32, 128, 512)
    ]
    assert any("CUDA graph" in name for name in case.formulations)
    gem, large = benchmark("resnet", accelerated=True).cases()
    for precision in ("tf32", "float32", "bfloat16"):
        rows = {f"supsup_jax, {precision}{masks}" for masks in ("", ", no masks")}
        rows |= {f"PyTorch, channels last{form}, {precision}" for form in ("", ", compiled")}
        assert rows <= set(gem.formulations) and rows <= set(large.formulations)
        rows = {name for name in [*gem.formulations][:12] if name.startswith("PyTorch") and precision in name}
        assert len(rows) == 2, "the time of the part may not suffice for more rows"
    assert "supsup_jax, 20 tasks by vmap" in gem.formulations and "256 images of 224" in large.name
    searches = benchmark("inference", accelerated=True).cases()
    assert len(searches) == 24 and all(len(case.formulations) == 2 for case in searches)


def test_floor_follows_the_precision_of_a_row(benchmark):
    compare = benchmark("compare")
    rows = {"first": "float32", "second": "tf32", "part": ""}
    formulations = {name: compare.Formulation(lambda: None, precision=rows[name]) for name in rows}
    case = compare.Case("case", 1, "steps", formulations, operations=100.0, num_bytes=10.0)
    rates = {"float32": 10.0, "tf32": 50.0, "bytes": 2.0}
    assert [case.floor(rates, name) for name in rows] == [10.0, 5.0, 0.0]  # the second one is bound by its bytes
    assert case.floor({"float32": 10.0, "bytes": 2.0}, "second") == 10.0


def test_rows_are_skipped_by_the_floor_of_what_they_measure(benchmark, monkeypatch):
    compare = benchmark("compare")
    result = {"seconds": 1.0, "first": 2.0, "memory": 3.0}
    monkeypatch.setattr(compare.Child, "ask", lambda *_: dict(result))
    formulations = {"all": compare.Formulation(lambda: None), "a tenth": compare.Formulation(lambda: None, part=0.1)}
    case = compare.Case("case", 1, "steps", formulations, operations=100.0)
    plan = compare.Plan(rounds=1, longest=20.0, rates={"float32": 1.0, "bytes": 1.0})
    whole, tenth = compare.compare("suite", [case], plan)
    assert whole.missing == "skipped: at least 100 s" and tenth.seconds == [1.0]


def test_failed_row_is_reported_and_the_next_one_is_measured(benchmark, tmp_path, monkeypatch):
    compare = benchmark("compare")
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import json, os, sys
for line in sys.stdin:
    name = json.loads(line)[2]
    if name == "dies":
        sys.exit("the GPU is on fire")
    result = {{"error": "no memory"}} if name == "fails" else {{"seconds": 1.0, "first": 2.0, "memory": 3.0}}
    print("noise", flush=True)
    about = {{"process": os.getpid(), "flags": os.environ["XLA_FLAGS"].count("--")}}
    print({compare.MARK!r} + json.dumps(result | about), flush=True)
"""
    )
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("XLA_FLAGS", "--a")
    formulations = {name: compare.Formulation(lambda: None) for name in ("dies", "works", "fails", "works too")}
    formulations |= {name: compare.Formulation(lambda: None, flags="--b") for name in ("with a flag", "with it again")}
    case = compare.Case("case", 1, "steps", formulations)
    plan = compare.Plan(rounds=1, rates={"float32": 1.0, "bytes": 1.0}, together=True)
    dies, works, fails, again, flagged, flagged_again = compare.compare("suite", [case], plan)
    assert dies.missing == "skipped: the GPU is on fire" and fails.missing == "skipped: no memory"
    assert works.seconds == again.seconds == [1.0] and works.notes == again.notes  # the same process
    assert (works.notes["flags"], flagged.notes["flags"]) == (1, 2)
    assert flagged.notes == flagged_again.notes
    assert "the GPU is on fire" in benchmark("report").markdown([dies, works])


def test_cuda_graph_without_a_gpu_is_an_error_of_its_row_only(benchmark):
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match="requires a GPU"):
        benchmark("train").pytorch("LeNet", False, form="graph")()


@pytest.mark.parametrize("by_xla", [False, True])
@pytest.mark.parametrize("part", ["forward", "gradient of the images", "gradient of the kernel"])
def test_convolutions_of_the_suite_run(benchmark, part, by_xla):
    convolutions = benchmark("convolutions")
    layer = convolutions.Layer("tiny", batch=2, size=4, inputs=3, outputs=5)
    images, kernel, cotangents = layer.arrays()
    like = {"forward": cotangents, "gradient of the images": images, "gradient of the kernel": kernel}[part]
    assert convolutions.of_jax(layer, part, by_xla)()().shape == like.shape
    assert part in convolutions.PARTS


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"running": True}, {"side_by_side": 3}])
def test_rows_of_the_resnet_suite_can_be_traced(benchmark, options):
    resnet = benchmark("resnet")
    params, losses = jax.eval_shape(resnet.ours(resnet.SMALLEST[0], **options)())
    assert losses.shape == (options.get("side_by_side", resnet.TASKS), 1)
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(params))


def test_profile_names_the_longest_kernels(benchmark):
    kernels = benchmark("kernels")
    rows = [
        {"case": "a", "name": "supsup_jax", "shares": [0.5]},
        {"case": "b", "name": "supsup_jax, masks alone", "shares": [0.0]},
        {"case": "b", "name": "supsup_jax", "shares": [0.2]},
        {"case": "c", "name": "PyTorch", "shares": [0.1]},
        {"case": "d", "name": "supsup_jax", "shares": []},
    ]
    assert kernels.slowest(rows) == ("b", "supsup_jax") and kernels.slowest([]) is None
    multiply = jax.jit(lambda x: jnp.sort(x @ x, axis=0))
    matrix = jnp.ones((200, 200))
    jax.block_until_ready(multiply(matrix))
    seconds, durations = kernels.kernels(lambda: jax.block_until_ready(multiply(matrix)))
    assert sum(map(sum, durations.values())) > 0 and any("sort" in name for name in durations)
    lines = kernels.markdown("a sort", seconds, durations | {str(k): [1e-12] for k in range(20)}).splitlines()
    assert sum(line.startswith("| `") for line in lines) == 10


def test_rounding_bound_holds_for_float32_and_is_tight_for_half(benchmark):
    parity = benchmark("parity")
    rng = np.random.default_rng(0)
    weights = {f"dense{i}": {"kernel": rng.normal(size=shape)} for i, shape in enumerate([(64, 30), (30, 10)])}
    images = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)

    def logits(dtype):
        hidden = np.maximum(images.reshape(4, 64).astype(dtype) @ weights["dense0"]["kernel"].astype(dtype), 0)
        return hidden @ weights["dense1"]["kernel"].astype(dtype)

    exact, bound = parity.reference(images, weights, "float32")
    assert (np.abs(logits(np.float32) - exact) <= bound).all()
    assert (np.abs(logits(np.float16) - exact) > bound).mean() > 0.5
    assert (parity.reference(images, weights, "tensorfloat32")[1] > 20 * bound).all()


def test_parity_names_what_differs_from_the_cpu(benchmark):
    parity = benchmark("parity")
    picks, gradients = "picks: one-shot H, float32", "gradients of H, float32"
    cpu = {"masks: threshold": np.ones(3), picks: np.arange(4), gradients: np.ones(4)}
    assert all(passed for _, passed, _ in parity.equal_values(cpu, cpu))
    ours = cpu | {picks: np.array([0, 1, 2, 0]), gradients: np.array([1.0, 1.0, 1.0, 1.25])}
    results = {name: (passed, detail) for name, passed, detail in parity.equal_values(ours, cpu)}
    assert results[picks] == (False, "1 of 4 differ; the gradients of H by 0.25")
    assert results["masks (1 arrays)"][0] and not results["picks (1 arrays)"][0]


def test_parity_check_that_raises_fails_and_is_named(benchmark):
    def raises():
        yield "first", True, "equal"
        raise ValueError("two\nlines")

    assert list(benchmark("parity")._guarded("check", raises)) == [
        ("first", True, "equal"),
        ("check", False, "ValueError: two lines"),
    ]
