"""Tables larger than memory: rows a second and memory, from memory maps, CSR, Parquet and Dask.

Rows are drawn and written block by block to a temporary folder, which is removed afterwards; a LogisticRegression is
fitted on the first 100,000 of them, and all are scored against 1,000 others. Each line is a process of its own on one
thread. What a memory map is compared with is one pass over the same file by ``np.add.reduce`` in blocks of 4 MiB, turn
by turn with the scoring: the median of the ratios is judged. Files are as they are left by their writing, in the page
cache as far as they fit; lines marked "from disk" begin by having the kernel drop the file's pages.

Memory is ``RssAnon`` of the kernel (resident pages that belong to no file), looked at every 5 ms: its highest above
what it was before the call, with targets, model and validation rows loaded and one small call made. The scores, 8 bytes
a row, are in it. Pages of the mapped file are not: the kernel takes them back when it needs them. The workers of a Dask
cluster have memory of their own, which is not measured.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from skinfluence import influence_scores

from . import _runner

N_FEATURES = 50
CSR_FEATURES = 5000
VALIDATION_ROWS = 1000
FIT_ROWS = 100_000
MEMORY_LIMIT = 512.0  # MiB above targets, model and validation rows
SPEED_LIMIT = 0.6  # of np.add.reduce
_BLOCK = 1 << 18
_REDUCED_ROWS = (4 << 20) // (4 * N_FEATURES)

MEMMAP, CSR, PARQUET = "memory map, float32", "CSR over memory maps, float32", "Parquet by row groups, float32"
DASK, CLUSTER = "Dask array, in the process", "Dask array, a cluster of 2 processes"


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """Write the tables, and measure each line; `data_home` is not used."""
    n, part = (400_000, 200_000) if quick else (50_000_000, 5_000_000)
    cases = [(MEMMAP, method, n) for method in (("ip",) if quick else ("ip", "ip_ensemble", "exact", "self_tracin"))]
    others = [(source, "ip", part) for source in (CSR, PARQUET, DASK, CLUSTER) if _is_there(source)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="skinfluence-large-") as folder:
        write_dense(Path(folder), n)
        for case in cases:
            rows.append(measured(folder, *case, turns=3))
        if not quick:
            rows.append(measured(folder, MEMMAP, "ip", n, turns=2, from_disk=True))
        for source, method, some in others:
            if source == CSR:
                write_csr(Path(folder), some)
            if source == PARQUET:
                write_parquet(Path(folder), some)
            rows.append(measured(folder, source, method, some, turns=1 if quick else 3))
    return {
        "about": _runner.about(__doc__, "The tables hold 50 columns, CSR 5,000 with 50 entries a row on average."),
        "seeds": [0],
        "threads": 1,
        "rows": rows,
        "gates": [] if quick else _gates(rows),  # what was asked was asked of the full size
    }


def _is_there(source: str) -> bool:
    needed = {PARQUET: ("pyarrow",), DASK: ("dask",), CLUSTER: ("dask", "distributed")}
    return all(find_spec(package) is not None for package in needed.get(source, ()))


def _gates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    judged = [row for row in rows if row["source"].startswith(MEMMAP) and row["method"] == "ip"]
    speed = [
        _runner.gate(f"speed of np.add.reduce: {_name(row)}", row["of_reading"], SPEED_LIMIT, at_least=True)
        for row in judged
    ]
    memory = [
        _runner.gate(f"MiB above: {_name(row)}", row["extra_mib"], MEMORY_LIMIT)
        for row in rows
        if row["extra_mib"] is not None and row["source"].startswith(MEMMAP)
    ]
    return speed + memory


# --- the tables -------------------------------------------------------------------------------------------------------


def write_dense(folder: Path, n: int) -> None:
    """``X.f32`` of ``n`` rows, ``y.npy``, and the fitted model with its validation rows."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(N_FEATURES, dtype=np.float32)
    y = np.empty(n, dtype=np.int8)
    first = None
    with (folder / "X.f32").open("wb") as file:
        for start in range(0, n, _BLOCK):
            X, y[start : start + _BLOCK] = _drawn(rng, w, min(_BLOCK, n - start))
            X.tofile(file)
            first = X if first is None else first
    np.save(folder / "y.npy", y)
    fit_rows = min(FIT_ROWS, len(first))
    fitted = LogisticRegression().fit(first[:fit_rows], y[:fit_rows])
    joblib.dump((fitted, *_drawn(rng, w, VALIDATION_ROWS)), folder / "dense.joblib")


def _drawn(rng: np.random.Generator, w: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    X = rng.standard_normal((n, len(w)), dtype=np.float32)
    return X, (X @ w + 3 * rng.standard_normal(n, dtype=np.float32) > 0).astype(np.int8)


def write_csr(folder: Path, n: int) -> None:
    """The three arrays of a CSR matrix of ``n`` rows, its targets, and its fitted model."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal(CSR_FEATURES, dtype=np.float32)
    indptr, y, first, stored = np.zeros(n + 1, dtype=np.int64), np.empty(n, dtype=np.int8), None, 0
    with (folder / "data.f32").open("wb") as data, (folder / "indices.i32").open("wb") as indices:
        for start in range(0, n, _BLOCK):
            m = min(_BLOCK, n - start)
            counts = rng.integers(1, 2 * N_FEATURES, size=m)
            starts = np.concatenate([[0], np.cumsum(counts)])
            X = sp.csr_array(
                (
                    rng.random(starts[-1], dtype=np.float32),
                    rng.integers(CSR_FEATURES, size=starts[-1], dtype=np.int32),
                    starts.astype(np.int32),
                ),
                shape=(m, CSR_FEATURES),
            )
            X.data.tofile(data)
            X.indices.tofile(indices)
            indptr[start + 1 : start + m + 1] = stored + starts[1:]
            stored += int(starts[-1])
            y[start : start + m] = X @ w + rng.standard_normal(m, dtype=np.float32) > 0
            first = X if first is None else first
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "y_csr.npy", y)
    fit_rows = min(20_000, first.shape[0])
    fitted = LogisticRegression().fit(first[:fit_rows], y[:fit_rows])
    joblib.dump((fitted, first[:VALIDATION_ROWS], y[:VALIDATION_ROWS]), folder / "csr.joblib")


def write_parquet(folder: Path, n: int) -> None:
    """The first ``n`` dense rows as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = _mapped(folder)
    names = [f"x{j}" for j in range(N_FEATURES)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with pq.ParquetWriter(folder / "X.parquet", schema) as writer:
        for start in range(0, n, _BLOCK):
            block = X[start : min(start + _BLOCK, n)]
            writer.write_table(pa.table([np.ascontiguousarray(column) for column in block.T], schema=schema))


def _mapped(folder: Path) -> np.ndarray:
    X = np.memmap(folder / "X.f32", dtype=np.float32, mode="r")
    return X.reshape(-1, N_FEATURES)


def opened(folder: Path, source: str, n: int) -> tuple[Any, np.ndarray, Any]:
    """X, y, and (estimator, X_val, y_val) of a source."""
    if source == CSR:
        data = np.memmap(folder / "data.f32", dtype=np.float32, mode="r")
        indices = np.memmap(folder / "indices.i32", dtype=np.int32, mode="r")
        indptr = np.load(folder / "indptr.npy")
        X = sp.csr_array((n, CSR_FEATURES), dtype=np.float32)
        X.data, X.indices, X.indptr = data, indices, indptr  # the constructor would read all of them
        return X, np.load(folder / "y_csr.npy"), joblib.load(folder / "csr.joblib")
    fitted, X_val, y_val = joblib.load(folder / "dense.joblib")
    y = np.load(folder / "y.npy")[:n]
    if source == MEMMAP:
        return _mapped(folder)[:n], y, (fitted, X_val, y_val)
    if source == PARQUET:
        import pandas as pd

        from skinfluence.streams import parquet_rows

        names = np.array([f"x{j}" for j in range(N_FEATURES)], dtype=object)
        fitted.feature_names_in_ = names  # as if it was fitted on a frame
        return parquet_rows(folder / "X.parquet"), y, (fitted, pd.DataFrame(X_val, columns=names), y_val)
    import dask.array as da

    chunks = (tuple(min(_BLOCK, n - start) for start in range(0, n, _BLOCK)), (N_FEATURES,))
    X = da.map_blocks(_chunk, str(folder), chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return X, y, (fitted, X_val, y_val)


def _chunk(folder: str, block_info: Any = None) -> np.ndarray:
    """A chunk of the dense rows, read where the chunk is wanted."""
    (first, last), _ = block_info[None]["array-location"]
    return np.array(_mapped(Path(folder))[first:last])


# --- a line -----------------------------------------------------------------------------------------------------------


def measured(folder: str, source: str, method: str, n: int, *, turns: int, from_disk: bool = False) -> dict[str, Any]:
    """`measure` in a process that has done nothing else."""
    given = (folder, source, method, n, turns, from_disk)
    script = f"from benchmarks.large import measure; measure{given!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {script}"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"measure{given!r} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: str, source: str, method: str, n: int, turns: int, from_disk: bool) -> None:
    """Print a line as JSON."""
    where = Path(folder)
    with threadpool_limits(1), _cluster() if source == CLUSTER else nullcontext():
        X, y, (fitted, X_val, y_val) = opened(where, source, n)
        judges = () if method.startswith("self_") else (X_val, y_val)

        def score() -> np.ndarray:
            return influence_scores(fitted, X, y, *judges, method=method, random_state=0)

        influence_scores(fitted, X_val, y_val, *judges, method=method)  # lets the modules be imported
        gc.collect()
        before = after = _anonymous_mib()
        ours, reading = [], []
        for _ in range(turns):
            if source == MEMMAP:
                X = None  # pages that are mapped stay
                if from_disk:
                    _forget(where / "X.f32")
                X = _mapped(where)[:n]
                reading.append(_seconds(partial(_read_through, X)))
                if from_disk:
                    X = None
                    _forget(where / "X.f32")
                    X = _mapped(where)[:n]
            with _watched() as highest:
                ours.append(_seconds(score))
            after = max(highest[0], after) if after is not None else None
    seconds = statistics.median(ours)
    ratio = statistics.median(r / s for r, s in zip(reading, ours, strict=True)) if reading else None
    found = {
        "source": f"{source}, from disk" if from_disk else source,
        "method": method,
        "rows": n,
        "columns": X.shape[1],
        "seconds": round(seconds, 3),
        "all_seconds": [round(s, 3) for s in ours],
        "reading_seconds": [round(s, 3) for s in reading] or None,
        "of_reading": ratio and round(ratio, 4),
        "extra_mib": None if after is None or before is None else round(after - before, 1),
    }
    print(json.dumps(found))


@contextmanager
def _cluster() -> Iterator[None]:
    import distributed

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        yield


def _read_through(X: np.ndarray) -> None:
    for start in range(0, len(X), _REDUCED_ROWS):
        np.add.reduce(X[start : start + _REDUCED_ROWS])


def _forget(path: Path) -> None:
    """Have the kernel drop what it holds of a file, so that it is read from the disk."""
    gc.collect()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def _watched() -> Iterator[list[float]]:
    """The highest anonymous memory in MiB, looked at every 5 ms by a thread."""
    highest, ended = [_anonymous_mib() or 0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            highest[0] = max(highest[0], _anonymous_mib() or 0.0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield highest
    finally:
        ended.set()
        watcher.join()


def _anonymous_mib() -> float | None:
    """Resident memory that belongs to no file, or None where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 2**10 if found else None


# --- tables -----------------------------------------------------------------------------------------------------------


def _name(row: dict[str, Any]) -> str:
    return f"{row['method']}, {row['source']}, {row['rows']:,}×{row['columns']:,}"


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    rates = [
        {
            "rows are in": row["source"],
            "method": row["method"],
            "rows": f"{row['rows']:,}",
            "columns": f"{row['columns']:,}",
            "seconds": f"{row['seconds']:.1f}",
            "million rows a second": f"{row['rows'] / row['seconds'] / 1e6:.2f}",
            "speed of np.add.reduce": None if row["of_reading"] is None else f"{row['of_reading']:.2f}",
            "memory above, MiB": None if row["extra_mib"] is None else f"{row['extra_mib']:.0f}",
            "of it the scores": f"{8 * row['rows'] / 2**20:.0f}",
        }
        for row in result["rows"]
    ]
    asked = [{key: entry[key] for key in ("gate", "value", "asked", "passed")} for entry in result["gates"]]
    return {"Rates": rates, "What was asked": asked} if asked else {"Rates": rates}
