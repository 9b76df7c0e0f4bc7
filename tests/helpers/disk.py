"""Banks on disk for tests."""

import jax
import numpy as np

from supsup_jax.bank.files import BankFiles
from supsup_jax.bank.writer import BankWriter
from supsup_jax.inference import on_disk
from supsup_jax.model import Model


def rows_of(bank) -> np.ndarray:
    """Return a bank in memory as one matrix, a row for each weight."""
    return np.concatenate([np.asarray(leaf).reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(bank)])


def write_bank(folder, model, source="a run", by_weights=None) -> BankFiles:
    """Write the bank of a model in tiles of some tasks, or of a number of weights, and open it."""
    rows = rows_of(model.bank)
    shapes = jax.tree.map(lambda leaf: leaf[0], model.stats)
    with BankWriter(folder, model.weights, model.num_tasks, source, shapes) as writer:
        if by_weights:
            for weight in range(0, len(rows), by_weights):
                writer.write(rows[weight : weight + by_weights], weight)
        else:
            for byte in range(0, rows.shape[1], 3):
                writer.write(rows[:, byte : byte + 3], byte=byte)
        writer.write_stats(model.stats)
    return BankFiles(folder)


def scores_on_disk(model, bank, images, search, **options) -> np.ndarray:
    """Return the scores of all picks."""
    shapes = jax.tree.map(lambda leaf: leaf[0], model.stats)
    bare: Model = on_disk.model_on_disk(model.net, model.method, model.weights, shapes, bank)
    return np.concatenate([*on_disk.scores(bare, bank, images, search, **options)])
