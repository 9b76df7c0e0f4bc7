"""The contents of checkpoints, on the host."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import PyTree

from supsup_jax.runs.steps import named_arrays


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


class Stored(NamedTuple):
    """A checkpoint on disk.

    Attributes:
        place: the folder that contains it: `checkpoints`, or `merging` while it is moved.
        first: number of its first save.
        tasks: number of new tasks in each save.
        digest: checksum of its arrays; `None` if it has none.
    """

    place: str
    first: int
    tasks: list[int]
    digest: str | None


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


def read(
    stored: Iterable[Stored],
    num_saves: int,
    arrays_of: Callable[[Stored, dict[str, Any]], dict[str, Any]],
    template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]],
    concatenate: Callable[[Sequence[Chunk]], Chunk] | None,
) -> Iterator[tuple[int, Chunk]]:
    """Yield the tasks of each checkpoint, with the number of its last save that has tasks.

    Args:
        stored: the checkpoints, in order.
        num_saves: number of saves of the run to read.
        arrays_of: returns the arrays of a checkpoint, given their shapes.
        template: returns the shapes and dtypes of bank and statistics for a number of tasks.
        concatenate: see `Tasks`; required if later saves may be merged with earlier ones.
    """
    for checkpoint in stored:
        kept = checkpoint.tasks[: max(0, num_saves - checkpoint.first)]
        if sum(kept):
            arrays = arrays_of(checkpoint, named_arrays(*template(sum(checkpoint.tasks))))
            chunk = Chunk(sum(kept), arrays.get("store", {}), arrays.get("stats", {}))
            if sum(kept) < sum(checkpoint.tasks):
                assert concatenate
                chunk = concatenate([chunk])
            yield checkpoint.first + max(index for index, tasks in enumerate(kept) if tasks), chunk
