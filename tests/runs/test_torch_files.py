import argparse
import dataclasses
import math
import re

import jax
import numpy as np
import pytest

import supsup_jax
from helpers import adapter
from helpers.tiers import thorough_but
from helpers.torch_files import CIFAR, MEAN, STD, SUPSUP, final_pt, gemresnet18, lenet, tensors, torch
from supsup_jax import UserError, restore
from supsup_jax.compat.torch import export_torch, import_torch
from supsup_jax.runs.records import TaskResult


def grey(x):
    """Return uint8 images, given normalised ones of shape `(images, 1, 28, 28)`."""
    return np.round(255 * (x.transpose(0, 2, 3, 1) * STD + MEAN)).astype(np.uint8)


def in_order(arrays, task):
    x = arrays["x"].reshape(16, 784)[:, arrays["perms"][task]]
    return grey(x.reshape(16, 1, 28, 28))


def test_an_imported_lenet_has_the_logits_of_the_original(supsup):
    run, arrays = supsup
    assert run.num_tasks == 6
    for task in range(6):
        logits = run.predict(in_order(arrays, task), task=task).logits
        # Logits are up to 11, and XLA's sums of 784 terms are not as exact as PyTorch's.
        np.testing.assert_allclose(logits, arrays["logits_given_task"][task], rtol=1e-5, atol=1e-5)
        for place in range(3):
            kept = run.mask(task)[f"dense{place}"]["kernel"]
            np.testing.assert_array_equal(kept, arrays[f"masks{place}"][task, ..., 0, 0].T)
            np.testing.assert_array_equal(run.weights[f"dense{place}"]["kernel"], arrays[f"weight{place}"][..., 0, 0].T)


def test_an_imported_lenet_infers_the_tasks_of_the_original(supsup):
    run, arrays = supsup
    for objective, letter in (("entropy", "H"), ("superfluous", "G")):
        picked = [
            run.infer_task(in_order(arrays, task)[:1], search="one_shot", objective=objective)[0] for task in range(6)
        ]
        np.testing.assert_array_equal(picked, arrays[f"pick_oneshot_{letter}"])


def test_the_arguments_of_the_original_become_the_settings(supsup):
    experiment = adapter.settings_of(supsup[0].experiment)
    assert (experiment.network, experiment.width, experiment.features) == ("LeNet", 0.1, 20)
    assert (experiment.dataset, experiment.benchmark, experiment.seed) == ("mnist", "Permuted", 1)
    assert (experiment.scenario, experiment.search, experiment.objective) == ("GNu", "one_shot", "entropy")
    assert [task.accuracy for task in supsup[0].record.tasks] == [0.8] * 6


def test_an_imported_run_is_evaluated_on_its_data_set(supsup, data_folder):
    accuracy = supsup_jax.evaluate(supsup[0], tasks=[0, 5], data=data_folder).accuracy
    assert (accuracy > 0.6).all(), accuracy


def test_names_of_data_parallel_and_inference_buffers_are_ignored(supsup, tmp_path):
    run, arrays = supsup
    state = {f"module.{name}": array for name, array in lenet(arrays).items()}
    state |= {"module.linear.0.stacked": np.zeros((6, 2)), "module.alphas": np.ones((6, 1, 1, 1, 1))}
    path = final_pt(tmp_path / "parallel.pt", state, {"module.linear.2.stacked": None}, **SUPSUP)
    jax.tree.map(np.testing.assert_array_equal, restore(import_torch(path, tmp_path / "other")).bank, run.bank)


@pytest.mark.parametrize("wrapped", ["_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "in layers"])
def test_files_of_compiled_networks_import_the_same(supsup, tmp_path, wrapped):
    run, arrays = supsup

    def named(name):
        return re.sub(r"(linear\.\d)", r"\1._orig_mod", name) if wrapped == "in layers" else wrapped.format(name)

    state = {named(name): array for name, array in lenet(arrays).items()}
    path = final_pt(tmp_path / "compiled.pt", state, **SUPSUP)
    jax.tree.map(np.testing.assert_array_equal, restore(import_torch(path, tmp_path / "other")).bank, run.bank)


def test_a_file_with_two_networks_is_rejected(supsup, tmp_path):
    _, arrays = supsup
    state = lenet(arrays)
    path = final_pt(
        tmp_path / "both.pt", state | {f"_orig_mod.{name}": array for name, array in state.items()}, **SUPSUP
    )
    with pytest.raises(UserError, match="a network both wrapped and unwrapped"):
        import_torch(path, tmp_path / "other")


def test_files_in_the_old_format_of_pytorch_import_the_same(supsup, tmp_path):
    run, arrays = supsup
    path = tmp_path / "old.pt"
    content = {"state_dict": tensors(lenet(arrays)), "args": argparse.Namespace(**SUPSUP, seed=1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    jax.tree.map(np.testing.assert_array_equal, restore(import_torch(path, tmp_path / "other")).bank, run.bank)


def test_a_state_dictionary_alone_needs_the_missing_settings(supsup, tmp_path):
    run, arrays = supsup
    path = tmp_path / "state.pt"
    torch.save(tensors(lenet(arrays)), path)
    with pytest.raises(UserError, match=r"does not name its benchmark; give benchmark=Permuted"):
        import_torch(path, tmp_path / "other")
    other = restore(import_torch(path, tmp_path / "other", benchmark="PermutedMNIST", num_tasks=5))
    assert other.num_tasks == 5 and adapter.settings_of(other.experiment).network == "LeNet"
    np.testing.assert_array_equal(other.mask(4)["dense0"]["kernel"], run.mask(4)["dense0"]["kernel"])


def test_the_number_of_discovered_tasks_must_be_given(supsup, tmp_path):
    path = final_pt(tmp_path / "nns.pt", lenet(supsup[1]), **SUPSUP | {"trainer": "nns"})
    with pytest.raises(UserError, match=r"how many of its 6 masks were learned; give num_tasks="):
        import_torch(path, tmp_path / "other")
    assert restore(import_torch(path, tmp_path / "other", num_tasks=4)).num_tasks == 4


def batche(arrays, layer=lambda place: f"linear.{2 * place}"):
    state = {}
    for place in range(3):
        state[f"{layer(place)}.weight"] = arrays[f"lenet_weight{place}"]
        state |= {f"{layer(place)}.{name}.{t}": arrays[f"lenet_{name}{place}"][t] for t in range(4) for name in "st"}
    return state


def test_an_imported_batche_has_the_logits_and_tasks_of_the_original(golden, tmp_path):
    arrays = golden("batche.npz")
    args = {"conv_type": "VectorizedBatchEnsembles", "adaptor": "se_be_adapt", "train_weight_tasks": 1}
    path = final_pt(tmp_path / "final.pt", batche(arrays), set="MNISTPerm", num_tasks=4, **args)
    run = restore(import_torch(path, tmp_path / "run"))
    assert (
        adapter.settings_of(run.experiment).method,
        adapter.settings_of(run.experiment).width,
        adapter.settings_of(run.experiment).random_weights,
    ) == ("BatchE", 0.05, False)
    images = grey(arrays["lenet_x"])
    for task, expected in enumerate(arrays["lenet_logits_per_task"]):
        # Logits are up to 150.
        atol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(run.predict(images, task=task).logits, expected, atol=atol)
    np.testing.assert_array_equal(run.infer_task(images)[::2], arrays["lenet_pick_entropy_repeat1"])


def test_an_imported_psp_predicts_like_the_rotated_weights(golden, tmp_path):
    arrays = golden("psp.npz")  # arrays of a last layer
    rng = np.random.default_rng(0)
    kernels = [
        *(rng.normal(size=shape).astype(np.float32) for shape in ((6, 784), (6, 6))),
        arrays["weight"][..., 0, 0],
    ]
    turns = [[np.eye(size, dtype=np.float32)[rng.permutation(size)] for _ in range(3)] for size in (784, 6)]
    turns.append(arrays["contexts"])
    state = {}
    for place, (kernel, contexts) in enumerate(zip(kernels, turns, strict=True)):
        layer = f"linear.{2 * place}"
        state[f"{layer}.weight"] = kernel[..., None, None]
        state |= {f"{layer}.contexts.{task}": context for task, context in enumerate(contexts)}
        state |= {f"{layer}.scores.{task}": np.zeros_like(kernel) for task in range(3)}
    args = {"conv_type": "PSPRotation", "set": "MNIST", "num_tasks": 3, "train_weight_tasks": -1}
    path = final_pt(tmp_path / "final.pt", state, **args)
    run = restore(import_torch(path, tmp_path / "run", benchmark="own"))
    assert (adapter.settings_of(run.experiment).network, adapter.settings_of(run.experiment).method) == (
        "FC1024",
        "UpperBound",
    )
    images = rng.random((4, 28, 28, 1)).astype(np.float32)
    for task in range(3):
        last = (kernels[2] @ turns[2][task]).T
        np.testing.assert_allclose(arrays["x"][..., 0, 0] @ last, arrays[f"out_task{task}"][..., 0, 0], atol=1e-5)
        x = (images.reshape(4, 784) - MEAN) / STD
        for kernel, contexts in zip(kernels[:2], turns, strict=False):
            x = np.maximum(x @ (kernel @ contexts[task]).T, 0)
        np.testing.assert_allclose(run.predict(images, task=task).logits, x @ last, rtol=1e-4, atol=1e-3)


def coloured(arrays):
    mean, std = np.array([0.491, 0.482, 0.447]), np.array([0.247, 0.243, 0.262])
    return np.round(255 * (arrays["x"].transpose(0, 2, 3, 1) * std + mean)).astype(np.uint8)


@pytest.mark.long
def test_an_imported_gemresnet18_has_the_masks_and_statistics_per_task(golden, tmp_path):
    """Those of each task."""
    arrays = golden("gemresnet18_mask.npz")
    state = {f"module.{name}": array for name, array in gemresnet18(arrays, "scores").items()}
    args = {"conv_type": "MultitaskMaskConv", "er_sparsity": True, "sparsity": 32, "num_tasks": 2, "adaptor": "gt"}
    path = final_pt(tmp_path / "final.pt", state, **CIFAR, **args)
    run = restore(import_torch(path, tmp_path / "run"))
    experiment = adapter.settings_of(run.experiment)
    assert (experiment.method, experiment.er_scale, experiment.scenario) == ("SupSup", 32.0, "GG")
    assert (experiment.width, experiment.benchmark, run.inputs.num_classes) == (0.25, "SplitCIFAR100", 5)
    np.testing.assert_allclose(run.predict(coloured(arrays), task=1).logits, arrays["logits_eval"], atol=1e-5)
    assert not run.stats_for(0)["bn1"]["mean"].any()


def test_heads_of_a_gemresnet18_are_imported_and_exported(golden, tmp_path):
    arrays = golden("gemresnet18.npz")
    state = gemresnet18(arrays, "scores")
    head = state["linear.weight"]
    state |= {"linear.scores.0": head + 1, "linear.scores.1": head, "linear.weight": head * 0}
    args = {"conv_type": "StandardConv", "individual_heads": True, "num_tasks": 2, "train_weight_tasks": 1}
    run = restore(import_torch(final_pt(tmp_path / "final.pt", state, **CIFAR, **args), tmp_path / "run"))
    assert adapter.settings_of(run.experiment).method == "SeparateHeads"
    np.testing.assert_array_equal(run.weights_for(0)["linear"]["kernel"], head[..., 0, 0].T + 1)
    export_torch(run, tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"]
    assert {name for name in back if "num_batches" not in name} == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.thorough
def test_a_single_network_is_used_for_all_tasks(golden, tmp_path):
    arrays = golden("gemresnet18.npz")
    state = {re.sub(r"\.bns\.1", "", name): array for name, array in gemresnet18(arrays, "scores").items()}
    state = {name: array for name, array in state.items() if ".bns.0" not in name}
    norms = [name.removesuffix(".running_var") for name in state if name.endswith("running_var")]
    state |= {f"{norm}.weight": np.ones_like(state[f"{norm}.running_var"]) for norm in norms}
    state |= {f"{norm}.bias": np.zeros_like(state[f"{norm}.running_var"]) for norm in norms}
    args = {"conv_type": "StandardConv", "num_tasks": 3, "train_weight_tasks": -1}
    run = restore(import_torch(final_pt(tmp_path / "final.pt", state, **CIFAR, **args), tmp_path / "run"))
    assert (adapter.settings_of(run.experiment).method, adapter.settings_of(run.experiment).affine, run.num_tasks) == (
        "LowerBound",
        True,
        3,
    )
    for task in range(3):
        kernel = run.weights_for(task)["layer2_0"]["shortcut_conv"]["kernel"]
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), state["layer2.0.shortcut.0.weight"])
        np.testing.assert_array_equal(run.stats_for(task)["bn1"]["var"], state["bn1.running_var"])


@pytest.mark.long
def test_a_resnet50_of_one_task_imports(golden, tmp_path):
    facts = golden("resnet50_params.json")
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape, *_ in facts["MaskConv"]}
    state |= {name: np.ones(shape, np.float32) for name, shape in facts["buffers"] if "running" in name}
    args = {"conv_type": "MaskConv", "er_sparsity": True, "sparsity": 8, "num_tasks": 100, "task_eval": 7}
    path = final_pt(tmp_path / "final.pt", state, set="SplitImageNet", wd=0.0, **args)
    run = restore(import_torch(path, tmp_path / "run"))
    experiment = adapter.settings_of(run.experiment)
    assert (experiment.network, experiment.benchmark, experiment.first_task) == ("ResNet50", "SplitImageNet", 7)
    assert (experiment.er_scale, experiment.weight_decay, run.num_tasks) == (8.0, 0.0, 1)
    scores = np.abs(state["layer3.4.conv2.scores"])
    kept = np.asarray(run.mask(0)["layer3_4"]["conv2"]["kernel"]).transpose(3, 2, 0, 1).astype(bool)
    assert scores[kept].min() > scores[~kept].max()
    assert kept.mean() == pytest.approx(8 * 512 / (256 * 256 * 9), abs=1e-5)
    np.testing.assert_array_equal(run.weights["linear"]["kernel"], state["fc.weight"][..., 0, 0].T)


@pytest.mark.thorough
def test_a_masked_run_of_one_task_is_exported_like_the_original(tmp_path):
    run = learned_run("SupSup", 1, er_scale=4.0, scenario="GG", first_task=3)
    run.record.tasks[0] = dataclasses.replace(run.record.tasks[0], task=3)
    export_torch(run, tmp_path / "final.pt")
    content = torch.load(tmp_path / "final.pt", weights_only=True)
    assert sorted(content["state_dict"]) == sorted(f"linear.{n}.{w}" for n in (0, 2, 4) for w in ("scores", "weight"))
    assert (content["args"]["task_eval"], content["args"]["conv_type"]) == (3, "MaskConv")
    other = restore(import_torch(tmp_path / "final.pt", tmp_path / "run"))
    assert (adapter.settings_of(other.experiment).first_task, [result.task for result in other.record.tasks]) == (
        3,
        [3],
    )
    jax.tree.map(np.testing.assert_array_equal, other.bank, run.bank)


@pytest.mark.parametrize("whole", [True, False])
def test_ties_between_scores_are_broken_like_in_the_original(golden, tmp_path, whole):
    state = lenet(golden("supermask_threshold.npz"), tasks=2)
    state = {name: np.sign(array) if "scores" in name else array for name, array in state.items()}
    args = {"conv_type": "MultitaskMaskConv", "er_sparsity": True, "sparsity": 2.0, "num_tasks": 2}
    path = final_pt(tmp_path / "final.pt", state, **SUPSUP | args)
    if not whole:
        torch.save(tensors(state), path)
    settings = {} if whole else {"er_scale": 2, "benchmark": "PermutedMNIST"}
    run = restore(import_torch(path, tmp_path / "run", **settings))
    assert adapter.settings_of(run.experiment).er_scale == 2.0
    kept = np.asarray(run.mask(1)["dense1"]["kernel"]).T.reshape(-1)
    # Of equal scores, the last ones in memory order are kept.
    count = 300 - int((1 - 2 * 40 / 300) * 300)
    np.testing.assert_array_equal(np.flatnonzero(kept), np.arange(300 - count, 300))


def test_a_hopfield_run_imports_with_its_memory(golden, tmp_path):
    arrays = golden("hop_recovery.npz")
    state = {f"linear.{3 * place}.weight": arrays[f"weight{place}"] for place in range(3)}
    for place in range(2):
        state |= {f"linear.{3 * place + 1}.scores.{task}": arrays[f"scores{place}"][task] for task in range(3)}
        state[f"linear.{3 * place + 1}.score"] = np.ones(16, np.float32)
    args = {"set": "PartitionMNISTV2", "conv_type": "StandardConv", "bn_type": "FastHopMaskBN", "num_tasks": 3}
    path = final_pt(tmp_path / "final.pt", state, adaptor="hopfield_recovery", gamma=1.5e-3, **args)
    run = restore(import_torch(path, tmp_path / "run"))
    assert (adapter.settings_of(run.experiment).method, adapter.settings_of(run.experiment).network, run.num_tasks) == (
        "HopSupSup",
        "BNNet",
        3,
    )
    for place in range(2):
        np.testing.assert_allclose(run.bank.matrices[f"gain{place}"]["scale"], arrays[f"W{place}"], atol=1e-5)
    np.testing.assert_array_equal(run.weights["dense0"]["kernel"], arrays["weight0"][..., 0, 0].T)
    with pytest.raises(UserError, match="cannot be exported"):
        export_torch(run, tmp_path / "back.pt")


def learned_run(method, tasks=2, **settings):
    """Return a small run whose tasks have initial parameters, made different from each other."""
    run = adapter.own_run("LeNet", 3, (28, 28, 1), method=method, width=0.05, features=4, batch_size=8, **settings)
    keys = jax.random.split(jax.random.key(7), tasks)
    adapters = jax.vmap(lambda key: run.method.finalize(run.method.init(key, run.weights), run.weights))(keys)
    if method in ("UpperBound", "SeparateHeads", "FineTuning"):
        adapters = jax.tree.map(lambda leaf: leaf * np.array([[[1]], [[-2]]], np.float32), adapters)
    chunk, _ = run.tasks.chunk(adapters, {}, tasks)
    run.tasks.add(chunk)
    run.record.tasks += [
        TaskResult(task, "today", None, math.nan, 0.5, 1.0, labels=["a", "b", "c"]) for task in range(tasks)
    ]
    return run


METHODS = [
    ("SupSup", "SupSup", {"search": "one_shot"}),
    ("SupSup", "SupSup", {"sparsity": 4.0}),
    ("Transfer", "SupSup", {}),
    ("BatchE", "BatchE", {"search": "exhaustive"}),
    ("PSP", "UpperBound", {"search": "exhaustive"}),
    ("SupSup", "SupSup", {"density": 0.3}),
    ("SeparateHeads", "SeparateHeads", {"search": "exhaustive"}),
    ("FineTuning", "SeparateHeads", {"search": "exhaustive"}),
    ("UpperBound", "UpperBound", {"search": "exhaustive"}),
    ("UpperBound", "UpperBound", {"search": "exhaustive", "fine_tunes": True}),
    ("LowerBound", "LowerBound", {"scenario": "GG"}),
]


@pytest.mark.parametrize(("method", "back", "settings"), thorough_but([METHODS[3], METHODS[-1]], METHODS))
def test_an_exported_file_imports_as_the_same_run(tmp_path, method, back, settings):
    run = learned_run(method, **settings)
    export_torch(run, tmp_path / "final.pt")
    other = restore(import_torch(tmp_path / "final.pt", tmp_path / "run"))
    images = np.random.default_rng(1).random((5, 28, 28, 1))
    for task in range(2):
        expected, found = (each.predict(images, task=task) for each in (run, other))
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert other.inputs == run.inputs and str(other.record.tasks) == str(run.record.tasks)
    changed = {"name", "initializer", "num_tasks", "method"}
    assert {
        name.split(":")[0] for name in adapter.differences(run.experiment, adapter.plain(other.experiment))
    } <= changed
    assert adapter.settings_of(other.experiment).method == back


def test_an_imported_run_learns_another_task(tmp_path):
    export_torch(learned_run("SeparateHeads", search="exhaustive"), tmp_path / "final.pt")
    run = restore(import_torch(tmp_path / "final.pt", tmp_path / "run"))
    images = np.random.default_rng(2).random((8, 28, 28, 1))
    before = run.predict(images, task=1).logits
    assert run.learn((images, np.arange(8) % 3), steps=1) == 2
    run = restore(tmp_path / "run")
    np.testing.assert_array_equal(run.predict(images, task=1).logits, before)
    assert run.num_tasks == 3


def test_imported_transfer_starts_from_the_mean_of_the_scores(supsup, tmp_path):
    _, arrays = supsup
    path = final_pt(tmp_path / "transfer.pt", lenet(arrays), **SUPSUP | {"trainer": "reinit", "adaptor": "gt"})
    run = restore(import_torch(path, tmp_path / "other"))
    assert adapter.settings_of(run.experiment).method == "Transfer"
    carry = run.tasks.next_carry(run.weights)
    total = arrays["scores1"].sum(0)[..., 0, 0].T
    np.testing.assert_allclose(carry["total"]["dense1"]["kernel"], total, rtol=1e-5, atol=1e-6)
    assert carry["tasks"] == 6
