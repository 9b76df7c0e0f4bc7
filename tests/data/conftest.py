import pytest

from helpers.imagenet import write


@pytest.fixture
def imagenet_folder(tmp_path):
    """A folder with a small ImageNet in torchvision's layout."""
    return write(tmp_path / "imagenet")
