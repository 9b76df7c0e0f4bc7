"""How a run is opened: from disk, or as one that has learned nothing yet."""

from pathlib import Path
from typing import Any

import numpy as np

from supsup_jax.data import Inputs, load_digits
from supsup_jax.data.arrays import NORMALISATION
from supsup_jax.errors import UserError
from supsup_jax.experiment import NETWORKS, Experiment
from supsup_jax.networks import Network
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.run import Run
from supsup_jax.runs.settings import experiment_of


def restore(run_dir: str | Path, step: int | None = None, network: Network | None = None) -> Run:
    """Opens a run, on whatever machine, without its data set.

    Its weights are drawn from its seed anew, or read where they were trained.

    Args:
        run_dir: the folder of a run, such as runs/quickstart/seed=1.
        step: how far to read its checkpoints, which are numbered from 0; by default to the last.
        network: the network, if it is one of your own.

    Raises:
        UserError: if the folder holds no run, or one that is damaged or needs another network.
    """
    folder = Path(run_dir).expanduser()
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no run; give a folder with checkpoints in it, such as runs/quickstart/seed=1")
    with Checkpoints(folder) as checkpoints:
        said = checkpoints.records(0)
    if not said:
        raise UserError(f"{folder} has no checkpoint yet; wait for one, or give another run")
    experiment = experiment_of(said[0]["experiment"], folder / "checkpoints/0")
    inputs = Inputs.from_json(said[0]["inputs"]) if "inputs" in said[0] else _inputs_of_format_2(experiment)
    if network is not None and experiment.network != "own":
        raise UserError(f"{folder} has a network of its own, {experiment.network}; leave network out")
    if network is None and experiment.network == "own":
        raise UserError(f"{folder} was learned with a network that is not this package's; give it as network=...")
    net = network or experiment.make_network(inputs.image_shape)
    run = Run(experiment, inputs, net)
    run.read(folder, step)
    return run


def SupSup(
    network: Network | str,
    num_classes: int,
    image_shape: tuple[int, ...] | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    **settings: Any,
) -> Run:
    """Supermasks in one random network that has learned nothing yet: `learn`, `predict`, `infer_task`, `save`.

    Args:
        network: one of your own, or the name of one of `supsup_jax.networks`, such as "LeNet".
        num_classes: classes of a task at most.
        image_shape: `(height, width, channels)`; needed with a name only.
        mean: for each channel, or for all, subtracted from images scaled to [0, 1].
        std: for each channel, or for all, what they are then divided by.
        settings: fields of `supsup_jax.experiment.Experiment`: `method`, `steps`, `batch_size`, `learning_rate`,
            `er_scale`, `search`, `objective`, `features`, `seed`, and others.

    Raises:
        UserError: if a setting is wrong, or the network has too few outputs.
    """
    if isinstance(network, str) == (image_shape is None):
        raise UserError("give the name of a network and image_shape, or a network, which knows it")
    if isinstance(network, str) and network not in NETWORKS:
        raise UserError(f"there is no network {network}; give one of your own, or {', '.join(NETWORKS)}")
    shape = network.input_shape if isinstance(network, Network) else image_shape
    if shape is None or np.shape(shape) != (3,) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"images have shape {shape}; give (height, width, channels), such as (28, 28, 1)")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"there are {num_classes} classes; give how many a task has at most, from 1")
    for name, values in (("mean", mean), ("std", std)):
        if np.shape(values) not in ((1,), (shape[-1],)):
            raise UserError(f"{name} is {values}; give one number, or one for each of {shape[-1]} channels, in a tuple")
        if not np.isfinite(values).all() or (name == "std" and not (np.array(values) >= 1e-6).all()):
            raise UserError(f"{name} is {values}; give finite numbers, and for std above 0")
    settings |= {"dataset": "own", "benchmark": "own", "network": network}
    if isinstance(network, Network):
        settings |= {"network": "own", "features": network.num_outputs}
    if settings.get("method", "SupSup") not in ("SupSup", "Transfer"):
        settings = {"scenario": "GG"} | settings  # what they infer tasks with follows from the method
    experiment = experiment_of({"name": "own"} | settings, Path("supsup_jax.SupSup"))
    per_channel = [tuple(np.broadcast_to(values, shape[-1]).astype(float).tolist()) for values in (mean, std)]
    net = network if isinstance(network, Network) else experiment.make_network(shape)
    if net.num_outputs < num_classes:
        raise UserError(f"the network has {net.num_outputs} outputs for {num_classes} classes; give it more")
    try:
        experiment.make_method(net.head).check(net)
    except ValueError as error:
        raise UserError(str(error)) from None
    if experiment.scenario == "NNs":
        raise UserError("scenario NNs learns from a stream; see supsup_jax.discovery.Learner")
    run = Run(experiment, Inputs(shape, per_channel[0], per_channel[1], num_classes), net)
    if experiment.scenario != "GG" and not net.uses_batch:
        run.inference()  # what does not fit is said before anything is learned
    return run


def _inputs_of_format_2(experiment: Experiment) -> Inputs:
    """What images are to a run whose checkpoints do not say it."""
    of_dataset = 100 if experiment.dataset == "cifar100" else 10
    classes = {"SplitCIFAR100": 5, "SplitImageNet": 10}.get(experiment.benchmark, of_dataset)
    if experiment.dataset == "digits":
        digits = load_digits()
        return Inputs(digits.image_shape, digits.mean, digits.std, classes)
    shapes = {"mnist": (28, 28, 1), "cifar100": (32, 32, 3), "imagenet": (*2 * (experiment.image_size,), 3)}
    mean, std = NORMALISATION[experiment.dataset]
    return Inputs(shapes[experiment.dataset], mean, std, classes)
