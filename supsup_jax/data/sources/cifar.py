"""Sources for CIFAR-10 and CIFAR-100."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from supsup_jax.data import cifar, cifar100
from supsup_jax.data.arrays import NORMALISATION, Dataset
from supsup_jax.data.sources.base import Source, dataset_of

# MD5 of the archive and of its files, as in torchvision.
CIFAR10_FILES = cifar.Cifar(
    title="CIFAR-10",
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_hash="md5:c58f30108f718f92721af3b95e74349a",
    url=cifar.URL,
    members={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    sizes={"train": 50000, "test": 10000},
    labels_key="labels",
    classes=10,
    known={
        "data_batch_1": ("c99cafc152244af753f735de768cd75f",),
        "data_batch_2": ("d4bba439e000b95fd0a9bffe97cbabec",),
        "data_batch_3": ("54ebc095f3ab1f0389bbae665268c751",),
        "data_batch_4": ("634d18415352ddfa80567beed471001a",),
        "data_batch_5": ("482c414d41f54cd18b22e5b47cb7c3cb",),
        "test_batch": ("40351d587109b95175f43aff81a1287e",),
    },
)


@dataclass(frozen=True)
class CIFAR10(Source):
    """Photographs: 50,000 training and 10,000 test images of 32 × 32 in colour, 10 classes.

    Read from torchvision's layout (`cifar-10-batches-py`), the published archive, or a folder that TFDS prepared;
    otherwise downloaded. The contents are verified.
    """

    name: ClassVar[str] = "cifar10"

    @override
    def load(self, folder: Path) -> Dataset:
        statistics = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        return dataset_of(*CIFAR10_FILES.read(folder), statistics)

    @override
    def is_present(self, folder: Path) -> bool:
        return CIFAR10_FILES.is_present(folder)


@dataclass(frozen=True)
class CIFAR100(Source):
    """Photographs: 50,000 training and 10,000 test images of 32 × 32 in colour, 100 classes (the fine labels).

    Read from torchvision's layout (`cifar-100-python`), the published archive, or a folder that TFDS prepared;
    otherwise downloaded. The contents are verified.
    """

    name: ClassVar[str] = "cifar100"

    @override
    def load(self, folder: Path) -> Dataset:
        return dataset_of(*cifar100.read(folder), NORMALISATION["cifar100"])

    @override
    def is_present(self, folder: Path) -> bool:
        return cifar100.published().is_present(folder)
