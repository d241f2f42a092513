"""The tables of the benchmarks: read from a folder, split by seed, with a seeded share of labels flipped.

Nothing is downloaded and no folder is assumed: the folder is the ``data_home`` given, or the environment variable
``SKINFLUENCE_DATA_HOME``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

ENVIRONMENT_VARIABLE = "SKINFLUENCE_DATA_HOME"

#: Rule that makes a regression target binary, by table; the other tables are classification as they are.
_BINARISE = {
    "2dplanes": lambda target: target > target.mean(),
    "california_housing": lambda target: target > target.mean(),
    "pol": lambda target: target > 0,
}
TABULAR = (
    "spambase", "phoneme", "electricity", "2dplanes", "pol", "california_housing", "covertype_balanced15k", "adult"
)  # fmt: skip
AS_THEY_ARE = ("crowd_product", "bank")


class MissingData(FileNotFoundError):
    """A file of the benchmarks is not in the data folder, or no folder was given."""


@dataclass(frozen=True)
class Table:
    """Rows to train on and rows to test on.

    ``y_train`` are the labels a user would have; ``wrong`` marks those known to be wrong, and is None where nobody
    knows. ``y_test`` is as clean as the source allows, and never flipped.
    """

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    wrong: np.ndarray | None


def data_file(name: str, data_home: str | os.PathLike[str] | None = None) -> Path:
    """Path of one file of the data folder; `MissingData` says what was wanted and where."""
    home = data_home or os.environ.get(ENVIRONMENT_VARIABLE)
    if not home:
        raise MissingData(
            f"The benchmark needs the file {name!r} of a data folder, and no folder was given: "
            f"pass --data-home DIR, or set the environment variable {ENVIRONMENT_VARIABLE}."
        )
    path = Path(home) / name
    if not path.is_file():
        raise MissingData(f"The benchmark needs {name!r}, and the data folder {str(home)!r} has no such file.")
    return path


def load(name: str, *, seed: int, flips: float, cap: int, data_home: str | os.PathLike[str] | None = None) -> Table:
    """One table, split by `seed`, at most `cap` training rows, a share `flips` of the training labels flipped.

    Parameters
    ----------
    name : str
        One of `TABULAR` or `AS_THEY_ARE`.
    seed : int
        Of the split, the subsample and the flips.
    flips : float
        Share of the training labels replaced by another class, drawn evenly.
    cap : int
        Most training rows to keep, drawn with the class shares kept.
    data_home : path-like, optional
        Folder of the data; by default the environment variable says.
    """
    if name == "adult":
        with np.load(data_file("adult.npz", data_home)) as stored:
            train = stored["X_train"], stored["y_train"], None
            test = stored["X_test_all"], stored["y_test_all"]
    elif name == "bank":
        with np.load(data_file("bank.npz", data_home)) as stored:
            X, y = stored["X"], stored["y"]
            train = X[stored["train_idx"]], y[stored["train_idx"]], None
            test = X[stored["test_idx"]], y[stored["test_idx"]]
    elif name == "crowd_product":
        frame = pd.read_csv(data_file("crowd_product.csv.gz", data_home))
        rows, test_rows = _split_rows(frame["truth"].to_numpy(), seed)
        X, truth, given = frame.iloc[:, 3:17].to_numpy(), frame["truth"].to_numpy(), frame["single_worker"].to_numpy()
        train = X[rows], given[rows], truth[rows]
        test = X[test_rows], truth[test_rows]
    else:
        frame = pd.read_csv(data_file(f"tabular/{name}.csv.gz", data_home))
        target = frame.pop("target")
        X = frame.to_numpy(dtype=np.float64)
        y = _BINARISE.get(name, lambda values: values)(target).to_numpy()
        rows, test_rows = _split_rows(y, seed)
        train, test = (X[rows], y[rows], None), (X[test_rows], y[test_rows])
    return _finish(*train, *test, seed=seed, flips=flips, cap=cap)


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to validate on and to test on, with the group of each row; features unscaled."""

    X_train: np.ndarray
    y_train: np.ndarray
    groups_train: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    groups_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    groups_test: np.ndarray


def load_splits(name: str, *, seed: int = 0, data_home: str | os.PathLike[str] | None = None) -> Splits:
    """A table of two classes with groups, in three parts.

    Parameters
    ----------
    name : str
        "bank" and "celeba" come in their published parts. "toxic" (embeddings of comments, and whether one names an
        identity) has none, and is cut by `seed` into 18,000, 6,000 and 6,000 rows. "adult" keeps its published training
        rows; its test part is cut in halves by `seed`.
    seed : int
        Of the cut, where there is no published one.
    data_home : path-like, optional
        Folder of the data; by default the environment variable says.
    """
    rng = np.random.default_rng(seed)
    file = {"celeba": "celeba_attributes", "toxic": "toxic_comments_minilm"}.get(name, name)
    with np.load(data_file(f"{file}.npz", data_home)) as stored:
        if name == "adult":
            X, y = (np.concatenate([stored[f"{part}_train"], stored[f"{part}_test_all"]]) for part in ("X", "y"))
            train, rest = np.split(np.arange(len(y)), [len(stored["y_train"])])
            val, test = np.array_split(rng.permutation(rest), 2)
            groups = X[:, int(stored["s_col"])]
        elif name == "toxic":
            groups, y = stored["mentions_any"], stored["y"]
            X = np.column_stack([stored["emb"], groups])
            train, val, test = np.split(rng.permutation(len(y)), [3 * len(y) // 5, 4 * len(y) // 5])
        else:
            X, y, groups = stored["X"], stored["y"], stored["s"]
            train, val, test = (stored[f"{part}_idx"] for part in ("train", "val", "test"))
    X, y, groups = X.astype(np.float64), y.astype(np.intp), groups.astype(np.intp)
    return Splits(*(part[rows] for rows in (train, val, test) for part in (X, y, groups)))


def flip_labels(y: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels with a `share` of them replaced by another class, and the mask of the replaced."""
    rng = np.random.default_rng(seed)
    classes, codes = np.unique(y, return_inverse=True)
    chosen = rng.choice(len(y), size=round(share * len(y)), replace=False)
    shifted = codes.copy()
    shifted[chosen] = (codes[chosen] + rng.integers(1, len(classes), size=len(chosen))) % len(classes)
    return classes[shifted], shifted != codes


def _split_rows(y: np.ndarray, seed: int) -> list[np.ndarray]:
    return train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=seed)


def _finish(X: Any, y: Any, truth: Any, X_test: Any, y_test: Any, *, seed: int, flips: float, cap: int) -> Table:
    """Cap the rows, number the classes from 0, flip."""
    if len(y) > cap:
        rows, _ = train_test_split(np.arange(len(y)), train_size=cap, stratify=y, random_state=seed)
        X, y, truth = X[rows], y[rows], None if truth is None else truth[rows]
    classes = np.unique(y_test)
    y, y_test = np.searchsorted(classes, y), np.searchsorted(classes, y_test)
    wrong = None if truth is None else y != np.searchsorted(classes, truth)
    if flips:
        if wrong is not None:
            raise ValueError("This table has wrong labels of its own: it is used as it is, with flips=0.")
        y, wrong = flip_labels(y, flips, seed)
    # Double precision throughout: a benchmark of methods, not of rounding.
    return Table(np.asarray(X, np.float64), y, np.asarray(X_test, np.float64), y_test, wrong)
