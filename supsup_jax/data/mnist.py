"""Reader of MNIST from common folder layouts, with download.

It looks in this order for torchvision's layout (`MNIST/raw`, also below `mnist`), the files themselves, gzipped or not,
also by Kaggle's names, and a folder that TFDS prepared (`mnist/3.0.1`). If none is found, the files are downloaded to
`mnist/MNIST/raw`.
"""

from pathlib import Path

from supsup_jax.data import files
from supsup_jax.data.idx import IdxDataset, IdxFile

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"

# For each published file, the shape of its array, the SHA-256 of its gzip as TFDS registers it, and that of its
# content.
_FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        (60000,),
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28),
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        (10000,),
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

_PLACES = ("mnist/MNIST/raw", "MNIST/raw", "mnist/raw", "raw", "mnist", "MNIST", ".")


def read(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
    """Return the training and the test samples, each as images `(samples, 28, 28, 1)` and labels, uint8.

    Args:
        folder: the user's data folder. If it does not hold MNIST, the files are downloaded into it.

    Raises:
        UserError: if a file is missing and cannot be downloaded, or is damaged.
    """
    return published().read(folder)


def published() -> IdxDataset:
    """Return the names, locations and checksums of MNIST's files."""
    known = {name: IdxFile(shape, content, f"sha256:{archive}") for name, (shape, archive, content) in _FILES.items()}
    return IdxDataset("MNIST", _URL, _PLACES, known, "mnist")
