"""The contents of checkpoints, on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import PyTree


class Chunk(NamedTuple):
    """Some tasks as stored in a checkpoint, on the host.

    Attributes:
        num_tasks: number of tasks.
        bank: adapters of the tasks, packed.
        stats: statistics of the tasks, stacked along a leading task axis; `{}` if there are none.
    """

    num_tasks: int
    bank: PyTree[Any]
    stats: PyTree[Any]


@runtime_checkable
class Tasks(Protocol):
    """The form in which checkpoints hold the tasks of a run."""

    def shapes(self, num_tasks: int) -> tuple[PyTree[Any], PyTree[Any]]:
        """Return the shapes and dtypes of bank and statistics for a number of tasks."""
        ...

    def concatenate(self, chunks: Sequence[Chunk]) -> Chunk:
        """Return several chunks as one."""
        ...


class Step(NamedTuple):
    """Contents of one save.

    Attributes:
        chunk: tasks learned since the last step that has a chunk; `None` if there are none, or if a later step that was
            merged with this one has them.
        run: description of the run as plain data; see `Checkpoints`.
        record: measurements since the previous save, as plain data.
    """

    chunk: Chunk | None
    run: dict[str, Any]
    record: dict[str, Any]


class Saved(NamedTuple):
    """Contents of all checkpoints of a run.

    Attributes:
        steps: all saves, in order.
        state: state that belongs to the last save; `None` if there is none.
    """

    steps: list[Step]
    state: PyTree[Any] | None
