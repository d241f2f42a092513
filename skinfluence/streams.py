"""Rows in Parquet files, read by row groups: what `skinfluence.influence_scores` takes as X where it is not in memory.

Most tables need nothing from here: memory maps, CSR matrices over memory maps, zarr and HDF5 arrays, Dask arrays and
DataFrames and pyarrow Tables are given as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .models._sources import as_frame

__all__ = ["ParquetRows", "parquet_rows"]


class ParquetRows:
    """The rows of Parquet files, a piece for each row group. Made by `parquet_rows`.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    column_names : list of str
        Names of the columns that make up X.
    edges : list of int
        First row of each row group, and the number of rows.
    """

    def __init__(self, dataset: Any, columns: Sequence[str] | None = None) -> None:
        names = list(dataset.schema.names)
        self.column_names = names if columns is None else [str(name) for name in columns]
        unknown = [name for name in self.column_names if name not in names]
        if unknown:
            raise ValueError(f"columns must be of the dataset, which has none named {unknown}; it has {names}.")
        self._dataset = dataset
        self._groups: list[Any] = []
        self.edges = [0]
        for fragment in dataset.get_fragments():
            if not hasattr(fragment, "split_by_row_group"):
                raise TypeError(
                    f"The dataset must be of Parquet files, which have row groups; got one of "
                    f"{type(fragment.format).__name__}. Write it as Parquet with pyarrow.dataset.write_dataset."
                )
            for group in fragment.split_by_row_group():
                n = sum(part.num_rows for part in group.row_groups)
                if n:
                    self._groups.append(group)
                    self.edges.append(self.edges[-1] + n)
        self.shape = (self.edges[-1], len(self.column_names))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ParquetRows(shape={self.shape}, n_row_groups={len(self._groups)})"

    def piece(self, k: int) -> Any:
        """A row group, as a pandas DataFrame (as a pyarrow Table where pandas is not installed)."""
        return as_frame(self._table(k, self.column_names))

    def column(self, name: str) -> np.ndarray:
        """A column of the files, whether X has it or not, in memory: the targets, say, or the weights.

        Parameters
        ----------
        name : str

        Returns
        -------
        column : ndarray of shape (n_rows,)

        Raises
        ------
        ValueError
            If there is no such column.
        """
        if name not in self._dataset.schema.names:
            raise ValueError(f"There is no column {name!r}; there are {list(self._dataset.schema.names)}.")
        parts = [self._table(k, [name]).column(name).to_numpy() for k in range(len(self._groups))]
        return np.concatenate(parts) if parts else np.empty(0)

    def _table(self, k: int, columns: list[str]) -> Any:
        return self._groups[k].to_table(schema=self._dataset.schema, columns=columns)


def parquet_rows(source: Any, columns: Sequence[str] | None = None) -> ParquetRows:
    """Open Parquet files as rows that are read by row groups, whatever their number.

    Parameters
    ----------
    source : str, path, list of paths or pyarrow.dataset.Dataset
        A file, a folder of files, several files, or a dataset opened with `pyarrow.dataset.dataset` (one that is
        partitioned, say).
    columns : sequence of str, default=None
        The columns that make up X, in that order: those that the estimator was fitted on. None is all columns.

    Returns
    -------
    rows : ParquetRows
        To be passed as X. `ParquetRows.column` reads the targets. Rows are in the order of the files and, in each, of
        its row groups. One row group at a time is in memory.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    TypeError
        If the dataset is not of Parquet files.
    ValueError
        If a column is not there.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np, pandas as pd
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.streams import parquet_rows
    >>> X = pd.DataFrame(np.random.RandomState(0).normal(size=(100, 2)), columns=["a", "b"])
    >>> y = X["a"] > 0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "rows.parquet"
    ...     X.assign(label=y).to_parquet(path, row_group_size=30)
    ...     rows = parquet_rows(path, columns=["a", "b"])
    ...     scores = influence_scores(LogisticRegression().fit(X, y), rows, rows.column("label"))
    >>> rows
    ParquetRows(shape=(100, 2), n_row_groups=4)
    >>> scores.shape
    (100,)
    """
    try:
        datasets = importlib.import_module("pyarrow.dataset")
    except ModuleNotFoundError as error:
        raise ImportError("Reading Parquet files takes pyarrow: pip install pyarrow.") from error
    if not isinstance(source, datasets.Dataset):
        paths = [str(path) for path in source] if isinstance(source, (list, tuple)) else str(source)
        source = datasets.dataset(paths, format="parquet")
    return ParquetRows(source, columns)
