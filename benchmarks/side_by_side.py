"""Training of LeNet 300-100 with different numbers of tasks side by side, beside PyTorch with one task.

On a CPU, the tasks of a device run one after another, so two numbers are measured. The floor assumes that no cache
keeps what an update reads and writes, so that few tasks may be faster.
"""

import peaks
from compare import Case, Formulation
from train import SIZES, STEPS, ours, pytorch, work_of_step

NETWORK = "LeNet"


def case(widths: tuple[int, ...], forms: dict[str, str], steps: int = STEPS[NETWORK]) -> Case:
    """Return the case with a row for each number of tasks and each form of PyTorch's update."""
    most = max(widths)
    formulations = {
        f"supsup_jax, {width:,} task{'s' * (width > 1)}": Formulation(
            ours(NETWORK, False, width, steps), width / most, precision="tf32"
        )
        for width in widths
    }
    for name, form in forms.items():
        prepare = pytorch(NETWORK, convolutions=False, tasks=1, form=form, steps=steps)
        precision = "float32" if form == "eager" else "tf32"
        formulations[f"PyTorch, 1 task, {name}"] = Formulation(prepare, 1 / most, precision=precision)
    work, (operations, num_bytes) = most * steps, work_of_step(SIZES[NETWORK])
    name = f"Training LeNet, tasks of {steps} steps side by side, seconds for {most:,} task{'s' * (most > 1)}"
    return Case(name, work, "steps", formulations, work * operations, work * num_bytes)


def cases() -> list[Case]:
    """Return the only case of this suite."""
    if not peaks.is_accelerated():
        return [case((1, 8), {"data in memory": "eager"})]
    forms = {"a CUDA graph of an update": "graph", "data in memory": "eager", "compiled": "compiled"}
    return [case((1, 8, 32, 128, 512), forms)]


def smallest() -> list[Case]:
    """Return the training of one task."""
    return [case((1,), {"data in memory": "eager"}, steps=3)]
