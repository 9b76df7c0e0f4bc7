"""The published files of CIFAR-100."""

from pathlib import Path

from supsup_jax.data import cifar, files

_URL = cifar.URL
_FOLDER = "cifar-100-python"
_ARCHIVE = "cifar-100-python.tar.gz"

# The SHA-256 of the archive, as TFDS registers it.
_HASH = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"

# For each published file, its MD5 as in torchvision, and the SHA-256 of its images in any order (`cifar.digest`).
_KNOWN = {
    "train": (
        "16019d7e3df5f24257cddd939b257f8d",
        "640c97a4012a8aebfcaf57fd82a33dd43b37d2e397a02cb9b0a3d89e6d6d936d",
    ),
    "test": (
        "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "a6a97df7b61bc7420bc44268696e8963d33129bc050978f2a63d8fe3420989fa",
    ),
}

# The superclass (coarse label) of each class, as the files have them.
_COARSE = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
)  # fmt: skip

BY_SUPERCLASS = tuple(sorted(range(100), key=lambda fine: _COARSE[fine]))
"""The classes in the order of their superclasses, five of each."""

_SIZES = {"train": 50000, "test": 10000}
_CLASSES = 100


def read(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
    """Return the training and the test samples, each as images `(samples, 32, 32, 3)` and fine labels, uint8.

    Args:
        folder: the user's data folder. If it does not hold CIFAR-100, the archive is downloaded into it.

    Raises:
        UserError: if a file is missing and cannot be downloaded, or is damaged.
    """
    return published().read(folder)


def published() -> cifar.Cifar:
    """Return the names, sizes and checksums of CIFAR-100's files."""
    return cifar.Cifar(
        title="CIFAR-100",
        name="cifar100",
        folder=_FOLDER,
        archive=_ARCHIVE,
        archive_hash=f"sha256:{_HASH}",
        url=_URL,
        members={split: (split,) for split in _SIZES},
        sizes=_SIZES,
        labels_key="fine_labels",
        classes=_CLASSES,
        known=_KNOWN,
    )
