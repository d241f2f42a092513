"""RTE and CoLA as rows of sentences, their development rows cut in halves, and the twins of those."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from .. import _data
from ._text_twins import AXES, twins

TASKS = {"rte": "RTE", "cola": "CoLA"}
_SENTENCES = {"rte": ["sentence1", "sentence2"], "cola": ["sentence"]}

Row = tuple[str, ...]


@dataclass(frozen=True)
class Twin:
    """A development row's twin on one axis."""

    row: int
    axis: str
    texts: Row


@dataclass(frozen=True)
class Task:
    """Rows of one or two sentences with labels 0 and 1; twins are those of development rows."""

    name: str
    train: list[Row]
    y_train: np.ndarray
    dev: list[Row]
    y_dev: np.ndarray
    twins: list[Twin]

    def shares(self) -> dict[str, float]:
        """Share of development rows that have a twin, on any axis and on each."""
        rows = {axis: {twin.row for twin in self.twins if twin.axis == axis} for axis in AXES}
        found = {"any": set().union(*rows.values())} | rows
        return {axis: round(len(own) / len(self.dev), 4) for axis, own in found.items()}

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Development rows to take influence on, and to test on; as many of each class in both."""
        rows = np.arange(len(self.dev))
        val, test = train_test_split(rows, test_size=0.5, stratify=self.y_dev, random_state=seed)
        return np.sort(val), np.sort(test)

    def parted(self, n: int) -> tuple[Task, Task]:
        """``n`` of the training rows, drawn once and for all, and the others; each with all development rows."""
        order = np.random.default_rng(0).permutation(len(self.train))
        first, second = (
            replace(self, train=[self.train[i] for i in own], y_train=self.y_train[own])
            for own in (np.sort(order[:n]), np.sort(order[n:]))
        )
        return first, second

    def some(self, n_train: int, n_dev: int) -> Task:
        """The first rows only."""
        return replace(
            self,
            train=self.train[:n_train],
            y_train=self.y_train[:n_train],
            dev=self.dev[:n_dev],
            y_dev=self.y_dev[:n_dev],
            twins=[twin for twin in self.twins if twin.row < n_dev],
        )


def load_task(name: str, data_home: str | os.PathLike[str] | None) -> Task:
    """A task of GLUE from ``glue/NAME_train.csv.gz`` and ``glue/NAME_dev.csv.gz``, in their order."""
    parts = []
    for part in ("train", "dev"):
        frame = pd.read_csv(_data.data_file(f"glue/{name}_{part}.csv.gz", data_home), keep_default_na=False)
        rows = list(frame[_SENTENCES[name]].itertuples(index=False, name=None))
        parts += [rows, frame["label"].to_numpy(dtype=np.int64)]
    train, y_train, dev, y_dev = parts
    made = [Twin(row, axis, texts) for row, own in enumerate(dev) for axis, texts in twins(own).items()]
    return Task(name, train, y_train, dev, y_dev, made)


def load_crows(data_home: str | os.PathLike[str] | None) -> tuple[list[Row], list[Row]]:
    """The pairs of CrowS-Pairs: sentences that differ only in the group that they name."""
    frame = pd.read_csv(_data.data_file("glue/crows_pairs.csv.gz", data_home), keep_default_na=False)
    return [(text,) for text in frame["sent_more"]], [(text,) for text in frame["sent_less"]]


def of_rows(made: Sequence[Twin], rows: np.ndarray) -> np.ndarray:
    """Which of the twins are twins of those rows, as indices."""
    return np.flatnonzero(np.isin([twin.row for twin in made], rows))
