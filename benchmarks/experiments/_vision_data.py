"""CIFAR-10 and the labels that people gave to it, CIFAR-10N, from the data folder.

Wanted are ``cifar10_train_jpg.npz`` and ``cifar10_test_jpg.npz`` (JPEG files end to end: ``data``, ``offsets``,
``label``) and ``cifar10n.npz``, in the original order of the images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import pairwise

import numpy as np

from .. import _data

#: Human labels of the training images -> their name in the file of CIFAR-10N.
NOISES = {"aggregate": "aggre_label", "random": "random_label1", "worst": "worse_label"}
Home = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Split:
    """Training rows with labels that people gave; validation and test rows with true ones."""

    X: np.ndarray
    y: np.ndarray
    wrong: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load_images(part: str, data_home: Home = None, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Images of a part, "train" or "test": uint8 of shape (n, 32, 32, 3). Needs Pillow."""
    from PIL import Image

    data, offsets = _files(part, data_home)
    bounds = np.array(list(pairwise(offsets)))[rows]
    return np.stack([np.asarray(Image.open(BytesIO(data[start:stop])).convert("RGB")) for start, stop in bounds])


@lru_cache(maxsize=2)
def _files(part: str, data_home: Home) -> tuple[bytes, np.ndarray]:
    with np.load(_data.data_file(f"cifar10_{part}_jpg.npz", data_home)) as stored:
        return stored["data"].tobytes(), stored["offsets"]


def load_labels(part: str, data_home: Home = None) -> np.ndarray:
    """The true labels, 0 to 9, of the images of a part."""
    with np.load(_data.data_file(f"cifar10_{part}_jpg.npz", data_home)) as stored:
        return stored["label"].astype(np.intp)


def load_human_labels(noise: str, data_home: Home = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels that people gave to the training images, one of `NOISES`, and the true ones.

    "aggregate" is the majority of three people, "random" the first of them, and "worst" a wrong label wherever any of
    the three gave one.
    """
    with np.load(_data.data_file("cifar10n.npz", data_home)) as stored:
        return stored[NOISES[noise]].astype(np.intp), stored["clean_label"].astype(np.intp)
