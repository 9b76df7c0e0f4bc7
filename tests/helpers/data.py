"""Small files of data sets, and a server for them."""

import gzip
import hashlib
import http.server
import io
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
from PIL import Image

from supsup_jax.data import mnist


def fake_mnist(folder, monkeypatch, gzipped=True, sizes=(20, 10)):
    """Write the four files of MNIST with fewer images."""
    rng = np.random.default_rng(0)
    shapes = {}
    folder.mkdir(parents=True)
    for part, size in zip(("train", "t10k"), sizes, strict=True):
        for kind, shape in (("images-idx3", (size, 28, 28)), ("labels-idx1", (size,))):
            name = f"{part}-{kind}-ubyte"
            header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
            content = header + rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
            shapes[name] = (shape, "", hashlib.sha256(content).hexdigest())
            path = folder / (f"{name}.gz" if gzipped else name)
            path.write_bytes(gzip.compress(content) if gzipped else content)
    monkeypatch.setattr(mnist, "_FILES", shapes)


def assert_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@contextmanager
def serving(folder):
    """Serve the files of a folder; yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def prepare_with_tfds(folder, name, images, train):
    """Write images as a TFDS data set, labelled by their index; the first `train` images are for training."""
    import tensorflow_datasets as tfds

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=images.shape[1:]),
                "label": tfds.features.ClassLabel(num_classes=100),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, train), "test": self._generate_examples(train, len(images))}

        def _generate_examples(self, start, stop):
            for index in range(start, stop):
                png = io.BytesIO()
                Image.fromarray(images[index].squeeze()).save(png, "PNG")
                yield index, {"image": io.BytesIO(png.getvalue()), "label": index}

    Prepared.name = name
    Prepared(data_dir=folder, file_format="array_record").download_and_prepare()
