"""Options of commands that infer tasks: the search, and how the bank is divided among devices and hosts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from supsup_jax.cli.commands.command import Command, ObjectiveName, SearchName, parse_settings
from supsup_jax.cli.options import check_hosts
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.runs.opening import restore
from supsup_jax.runs.predictor import Predictor
from supsup_jax.runs.run import Run
from supsup_jax.runs.search_choice import with_settings
from supsup_jax.system import backend, devices, hosts


@dataclass(frozen=True, kw_only=True)
class Inferring(Command):
    """Base class of commands that infer tasks."""

    search: SearchName = None
    """Search that infers the task; by default the search of the run's experiment."""

    objective: ObjectiveName = None
    """Function of the outputs that is minimised to infer the task; by default that of the run's experiment."""

    search_settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Settings of the search, such as --search shortlist --search-settings share=0.03125 shortlist=32."""

    shard_bank: bool = False
    """Divide the bank of masks among all GPUs, or among one CPU device per core; each scores its own tasks."""

    coordinator: str | None = None
    """To divide the bank among several hosts: HOST:PORT of the first host. Run the same command on every host;
    the first one prints the result. Not required under SLURM with srun."""

    hosts: int | None = None
    """With --coordinator: number of hosts."""

    host: int | None = None
    """With --coordinator: index of this host, from 0."""

    host_timeout: int = 300
    """With several hosts: seconds to wait for the other hosts at the start."""

    def inference(self, run: Predictor) -> dict[str, Any]:
        """Return search and objective as arguments of `predict` and `evaluate`.

        Raises:
            UserError: if the run cannot be searched like this.
        """
        search: Any = self.search
        if settings := parse_settings("--search-settings", self.search_settings):
            try:
                search = with_settings(run.inference(self.search, self.objective), settings)
            except ArgumentError as error:
                given = next(pair for pair in self.search_settings if pair.startswith(f"{error.argument}="))
                raise UserError(f"--search-settings {given}: {error.problem}") from None
        return {"search": search, "objective": self.objective}

    def shares(self) -> bool:
        """Return whether the options divide the bank."""
        return self.shard_bank or hosts.is_distributed(self.coordinator)

    def restored(self, folder: Path) -> Run:
        """Return the run, with its bank divided if the options ask for it. Call this before JAX computes anything.

        Raises:
            UserError: if an option is out of range, the run cannot be read, its bank cannot be divided, or another host
                cannot be reached.
        """
        check_hosts(self.coordinator, self.hosts, self.host, self.host_timeout)
        if self.shares():
            devices.use_all_cores()
            hosts.join_as(self.coordinator, self.hosts, self.host, {}, self.host_timeout)
        run = restore(folder)
        if self.shares():
            hosts.check_equal({"the number of tasks in the run": run.num_tasks})
            run.shard_bank()
            backend.return_memory()
        return run
