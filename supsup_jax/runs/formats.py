"""What earlier versions of this package wrote, in today's words."""

from typing import Any


def upgraded(experiment: dict[str, Any]) -> dict[str, Any]:
    """The settings of an experiment that a run has recorded, all of them, as this version calls them.

    What version 0.1 called `kaiming_uniform` is `pytorch_default` now, and that name the original's. Its runs are those
    that do not record a `density`.
    """
    if "density" not in experiment and experiment.get("initializer") == "kaiming_uniform":
        return experiment | {"initializer": "pytorch_default"}
    return experiment
