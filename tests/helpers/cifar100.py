"""A small CIFAR-100 in the file format of the published one."""

import hashlib
import io
import pickle
import shutil
import struct
import tarfile

import numpy as np

from supsup_jax.data import cifar, cifar100

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), "test": RNG.integers(0, 256, (4, 32, 32, 3))}
LABELS = {"train": [99, 1, 2, 3, 4, 5, 6, 7], "test": [0, 98, 2, 3]}


class Python2(pickle._Pickler):
    """Pickler that writes strings, keys and pixels as Python 2 did: as bytes."""

    def save_bytes(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes, str: save_bytes}


def content(split, **changes):
    """Return the contents of a CIFAR-100 file with fewer images; channels come before rows and columns."""
    rows = IMAGES[split].transpose(0, 3, 1, 2).reshape(-1, 3072).astype(np.uint8)
    names = [f"image_{index}.png" for index in range(len(rows))]
    published = {"filenames": names, "batch_label": split, "fine_labels": LABELS[split], "data": rows}
    return {name: value for name, value in (published | changes).items() if value is not None}


def python2(value):
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def python3(value):
    return pickle.dumps(value, protocol=4)


def write(folder, dump=python2):
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / split).write_bytes(dump(content(split)))


def pack(folder, *members):
    """Move the files of `cifar-100-python` into an archive in the same folder, and add `members` to it."""
    packed = folder / "cifar-100-python"
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name in ("meta", "test", "train"):
            if (packed / name).exists():
                archive.add(packed / name, f"cifar-100-python/{name}")
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    shutil.rmtree(packed)


def shrink(monkeypatch):
    """Make the package accept this small CIFAR-100 as the published one."""
    monkeypatch.setattr(cifar100, "_SIZES", {"train": 8, "test": 4})
    known = {
        split: (
            hashlib.md5(python2(content(split))).hexdigest(),
            cifar.digest(IMAGES[split].astype(np.uint8), LABELS[split]),
        )
        for split in LABELS
    }
    monkeypatch.setattr(cifar100, "_KNOWN", known)
