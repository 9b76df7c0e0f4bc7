"""Damaged and malicious files: each gives a one-line error that names the file, and uses little memory.

Further tests of damaged files are beside the tests of the code that reads them.
"""

import gzip
import io
import itertools
import pickle
import re
import shutil
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

import supsup_jax as ss
from helpers import adapter
from helpers.cifar100 import pack, shrink, write
from helpers.data import fake_mnist, prepare_with_tfds
from helpers.runs import DATASET, EXPERIMENT, OTHERS
from helpers.tiers import thorough_but
from supsup_jax import UserError, data
from supsup_jax.__main__ import main
from supsup_jax.data import cifar100, mnist, pictures
from supsup_jax.runs.results import is_finished
from supsup_jax.runs.settings import load_settings, read_run
from supsup_jax.system.yaml import parse_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_cifar100(request, monkeypatch):
    """Reduce CIFAR-100 to a few images, except for tests with real data."""
    if "data_folder" not in request.fixturenames:
        shrink(monkeypatch)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "cifar100/cifar-100-python"
    write(folder)
    return folder


def flip(path, place=0.5, bit=4):
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= bit
    path.write_bytes(whole)


def memory(name):
    """Return a memory size of this process in kB on Linux, 0 elsewhere."""
    status = Path("/proc/self/status")
    return int(re.search(rf"{name}:\s+(\d+)", status.read_text())[1]) if status.exists() else 0


def refused(call, *words):
    """Check that a call raises a one-line error with these words and uses little memory; return the message."""
    if (peak := Path("/proc/self/clear_refs")).exists():
        peak.write_text("5")  # resets the peak
    before = memory("VmRSS")
    with pytest.raises(UserError) as error:
        call()
    assert memory("VmHWM") - before < 200_000
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    for word in words:
        assert word in message
    return message


MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "flipped": flip,
    "flipped at the end": lambda path: flip(path, 0.999),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "swapped": lambda path: shutil.copy(
        next(other for other in path.parent.iterdir() if other.name != path.name), path
    ),
}


@pytest.mark.parametrize(
    ("gzipped", "damage"),
    thorough_but(
        [(True, "truncated"), (True, "flipped"), (False, "empty"), (False, "longer"), (False, "swapped")],
        itertools.product([True, False], DAMAGES),
    ),
)
def test_an_error_names_every_damaged_file_of_mnist(tmp_path, monkeypatch, gzipped, damage):
    fake_mnist(tmp_path / "whole", monkeypatch, gzipped)
    for number, name in enumerate(MNIST):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
        path = folder / (f"{name}.gz" if gzipped else name)
        DAMAGES[damage](path)
        refused(lambda folder=folder: data.load("mnist", folder), str(path), "replace it, from https://")


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    fake_mnist(tmp_path / "mnist", monkeypatch)
    bomb = gzip.compress(bytes(1 << 24)) * 64  # a gigabyte
    (tmp_path / f"mnist/{MNIST[0]}.gz").write_bytes(bomb)
    refused(lambda: data.load("mnist", tmp_path), "with the wrong header (more bytes)")


def test_real_mnist_has_the_published_checksums_and_a_flipped_bit_has_not(data_folder, tmp_path):
    for name in MNIST:
        found = next((data_folder / "mnist/MNIST/raw").glob(f"{name}*"))
        unpacked = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        (tmp_path / name).write_bytes(unpacked)
    assert len(data.load("mnist", tmp_path).train.labels) == 60000
    flip(tmp_path / MNIST[1])
    refused(lambda: data.load("mnist", tmp_path), MNIST[1], "not the published file of MNIST")


@pytest.mark.parametrize("place", np.linspace(0.02, 0.98, 7))
@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_a_flipped_bit_in_cifar100_is_detected_or_has_no_effect(raw, tmp_path, place, packed):
    expected = data.load("cifar100", tmp_path)
    if packed:
        pack(raw.parent)
    path = raw.parent / "cifar-100-python.tar.gz" if packed else raw / "train"
    flip(path, place)
    try:
        found = data.load("cifar100", tmp_path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:  # the bit is in the name of an image
        np.testing.assert_array_equal(found.train.images, expected.train.images)
        np.testing.assert_array_equal(found.train.labels, expected.train.labels)


def test_a_flipped_pixel_of_cifar100_is_detected(raw, tmp_path):
    flip(raw / "train", 0.5)
    refused(
        lambda: data.load("cifar100", tmp_path),
        str(raw / "train"),
        "checksum of its images and labels is not that of the published ones",
    )


def member(name, size, kind=tarfile.REGTYPE, target=""):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, str(target)
    return entry


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (lambda _: member("cifar-100-python/test", 1 << 23), "it is much larger"),
        (lambda _: member("another", 1 << 23), "it is much larger"),
        (lambda trap: member("cifar-100-python/test", 0, tarfile.SYMTYPE, trap), "is not a regular file"),
        (lambda trap: member("cifar-100-python/test", 0, tarfile.LNKTYPE, trap), "is not a regular file"),
        (lambda _: member("cifar-100-python/test", 0, tarfile.FIFOTYPE), "is not a regular file"),
    ],
    ids=["large", "large unknown member", "link", "hard link", "fifo"],
)
def test_an_archive_with_a_bomb_or_a_link_outside_is_rejected(raw, tmp_path, entry, words):
    trap = tmp_path / "trap"
    (raw / "test").rename(trap)
    path = raw.parent / "cifar-100-python.tar.gz"
    entry = entry(trap)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
        archive.add(raw / "train", "cifar-100-python/train")
    shutil.rmtree(raw)
    refused(lambda: data.load("cifar100", tmp_path), str(path), words)


def sparse():
    """Return the header of a sparse file of eight gigabytes without data."""
    header = bytearray(member("cifar-100-python/train", 0, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def test_a_sparse_archive_member_is_not_expanded(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_bytes(gzip.compress(sparse() + bytes(1024)))
    refused(lambda: data.load("cifar100", tmp_path), "it is much larger")


PICKLES = {
    "global": b"cos\nsystem\n(U\x04trueR.",
    "a terabyte": b"\x8e" + (1 << 40).to_bytes(8, "little") + b".",
    "a large memo index": b"]r" + (1 << 31).to_bytes(4, "little") + b".",
    "nested labels": b"fine_labels" + b"(K" * 1_000_000,
    "repeated labels": b"(K\x01e" * 1_000_000,
}


@pytest.mark.parametrize("attack", PICKLES)
def test_a_malicious_pickle_is_rejected(raw, tmp_path, monkeypatch, attack):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("code in the file was executed"))
    monkeypatch.setattr(cifar100, "_SIZES", {"train": 1000, "test": 4})  # the size of the largest pickle
    (raw / "train").write_bytes(PICKLES[attack])
    refused(lambda: data.load("cifar100", tmp_path), str(raw / "train"), "cannot be read as CIFAR-100")


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_of_tfds_are_rejected_or_have_no_effect(tmp_path, monkeypatch):
    for name, size in (("train-labels-idx1-ubyte", 4), ("t10k-labels-idx1-ubyte", 2)):
        monkeypatch.setitem(mnist._FILES, name, ((size,), "", ""))
    prepare_with_tfds(
        tmp_path / "whole", "mnist", np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), np.uint8), 4
    )
    expected = data.load("mnist", tmp_path / "whole")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    refusals = 0
    for file in files:
        for damage in ("empty", "truncated", "flipped", "swapped"):
            folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{file.name}-{damage}")
            DAMAGES[damage](folder / file)
            try:
                found = data.load("mnist", folder)
            except UserError as error:
                assert str(folder) in str(error) and "\n" not in str(error)
                refusals += 1
            else:
                np.testing.assert_array_equal(found.train.images, expected.train.images)
                np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    assert refusals >= 8


def array(shape, descr="|u1", data=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def npz():
    file = io.BytesIO()
    np.savez(file, np.zeros((2, 8, 8, 1), np.uint8))
    return file.getvalue()


def picture(kind, **settings):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, **settings)
    return file.getvalue()


def large_png():
    """Return a PNG file whose header declares 144 million pixels."""
    whole = picture("PNG")
    header = whole[12:16] + (12000).to_bytes(4, "big") * 2 + whole[24:29]
    return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]


IMAGES = {
    "empty.npy": b"",
    "huge.npy": array((1 << 40, 8, 8, 1)),
    "overflow.npy": array((1 << 62, 1 << 62)),
    "short.npy": array((100, 8, 8, 1), data=bytes(64)),
    "objects.npy": array((2,), "|O", pickle.dumps([1, 2])),
    "zip.npy": npz(),
    "header.npy": array("(" * 100),
    "structured.npy": array((1,), [("a", "<f4")], bytes(4)),
    "wrong.npy": array((1, 7, 8, 1), data=bytes(56)),
    "wide.npy": array((1, 8, 8, 1), "<i8", bytes(512)),
    "archive.npz": npz(),
    "empty.png": b"",
    "half.png": picture("PNG")[:40],
    "large.png": large_png(),
    "runs_ghostscript.png": picture("EPS"),
    "half.jpg": picture("JPEG")[:200],
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_error_names_images_that_cannot_be_used(tmp_path, name):
    (tmp_path / name).write_bytes(IMAGES[name])
    inputs = data.Inputs((8, 8, 1), (0.0,), (1.0,), 2)
    refused(lambda: pictures.read(tmp_path / name, inputs, 8))


def test_an_error_names_broken_links(tmp_path):
    for name in ("link.npy", "link.png"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
        refused(lambda name=name: pictures.read(tmp_path / name, data.Inputs((8, 8, 1), (0.0,), (1.0,), 2)), name)


def test_any_flipped_bit_in_an_array_header_gives_one_line_or_no_error(tmp_path):
    path, whole = tmp_path / "images.npy", array((2, 8, 8, 1), data=bytes(128))
    inputs = data.Inputs((8, 8, 1), (0.0,), (1.0,), 2)
    read = 0
    for place in range(128):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                read += len(pictures.read(path, inputs)[1]) > 0
            except UserError as error:
                assert "\n" not in str(error)
    assert 0 < read < 1024  # some flips have no effect: a space becomes a tab


LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}]\n" for old, new in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)
YAML = {
    "code": "steps: !!python/object/apply:os.system [true]",
    "laughs": LAUGHS + "steps: *q",
    "itself": "steps: &a [*a]",
    "deep": "steps: " + "[" * 1_000,
    "invalid date": "name: 2001-13-45",
    "invalid integer": "steps: !!int x",
    "long integer": "steps: 0x" + "f" * 10_000,
    "long": "# " + "x" * (1 << 19),
    "not text": b"\xff\xfe\x00",
    "a list": "[1, 2]",
    "empty": "",
    "numbers as names": "1: 2",
}


@pytest.mark.parametrize("kind", YAML)
def test_an_error_names_a_yaml_file_without_valid_settings(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("code in the file was executed"))
    text = YAML[kind]
    (tmp_path / "settings.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(lambda: load_settings(tmp_path / "settings.yaml"), "settings.yaml")
    refused(lambda: read_run(tmp_path), "settings.yaml does not contain the settings of a run")


@pytest.mark.parametrize(
    "change",
    [
        {"options": []},
        {"options": {"data": 5, "tasks_at_once": None}},
        {"options": {"data": ".", "tasks_at_once": None, "learned_in": 5}},
        {"experiment": [1]},
        {"command": "x"},
    ],
)
def test_malformed_settings_of_a_run_are_rejected(tmp_path, change):
    good = {"experiment": {"name": "x"}, "options": {"data": "data", "tasks_at_once": None}, "command": ["a.py"]}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(good))
    assert read_run(tmp_path)[0].name == "x"
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(good | change))
    refused(lambda: read_run(tmp_path), "settings.yaml does not contain the settings of a run")


def test_yaml_with_a_few_aliases_is_read():
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("line", ["[1]", "5", "{", "[" * 2_000, '{"kind": "evaluation"}'])
def test_a_run_with_a_damaged_metrics_file_is_not_finished(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line)
    assert not is_finished(tmp_path, [1])


@pytest.fixture(scope="module", params=["SupSup", "LowerBound", "NNs", "HopSupSup"])
def trained(request, tmp_path_factory):
    """Folder of a run with several checkpoints and, for some methods, replaced state beside them."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    folder.mkdir()
    experiment = adapter.changed({"SupSup": EXPERIMENT, **OTHERS}[request.param], num_tasks=2, eval_at=(1,))
    adapter.run_experiment(experiment, DATASET, folder, 1)
    return folder


def contents(folder):
    """Return the arrays and the record of a run."""
    run = ss.restore(folder)
    return jax.device_get((run.weights, run.stats, run.bank)), run.record


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", ["empty", "truncated", "swapped", "flipped", "flipped at the end"])
def test_a_damaged_run_gives_one_line_or_has_equal_contents(trained, tmp_path, monkeypatch, capsys, damage):
    arrays, record = contents(trained)
    files = [path for path in sorted(trained.rglob("*")) if path.is_file() and path.parent != trained]
    detected = 0
    for number, file in enumerate(path for path in files if path.stat().st_size):
        folder = shutil.copytree(trained, tmp_path / f"{number}")
        path = folder / file.relative_to(trained)
        if damage == "swapped":  # preferably with a file of the same name
            others = [other for other in files if other.read_bytes() != path.read_bytes()]
            others.sort(key=lambda other: other.name != path.name)
            shutil.copy(others[number % max(1, sum(other.name == path.name for other in others))], path)
        else:
            DAMAGES[damage](path)
        monkeypatch.setattr(sys, "argv", ["supsup_jax", "show", str(folder), "--json"])
        capsys.readouterr()
        try:
            main()
        except SystemExit as ended:
            assert ended.code == 2
            assert capsys.readouterr().err.count("\n") == 1
            detected += 1
        else:
            after = contents(folder)
            jax.tree.map(np.testing.assert_array_equal, after[0], arrays)
            assert after[1] == record
        shutil.rmtree(folder)
    assert detected >= 5


DANGEROUS = re.compile(
    r"pickle\.loads?\b|Unpickler|yaml\.(?!safe_)\w*load|np\.load\((?!.*allow_pickle=False)|torch\.load\((?!.*weights_only=True)"
    r"|extractall|(?<![\w.])(eval|exec)\(|shell=True|os\.system|__import__"
)


def test_the_package_calls_no_function_that_executes_code_in_files():
    assert DANGEROUS.search("x = np.load(path)") and not DANGEROUS.search("np.load(path, allow_pickle=False)")
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {line.strip()}"
        for folder in ("supsup_jax", "experiments", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if DANGEROUS.search(line)
    }
    # It reads bytes with a published checksum.
    assert found == {'supsup_jax/data/cifar.py: content = pickle.loads(pickled, encoding="bytes")'}


def test_every_dependency_has_both_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) > 10 and {"test", "torch", "docs"} <= project["optional-dependencies"].keys()
    bounded = {}
    for line in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        needed = Requirement(line)
        operators = {bound.operator for bound in needed.specifier}
        bounded[needed.name] = bounded.get(needed.name, False) or operators in ({">=", "<"}, {"=="})
    assert [name for name, has_both in bounded.items() if not has_both] == [
        "supsup_jax"
    ]  # an extra may include other extras
