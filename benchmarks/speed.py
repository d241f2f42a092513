"""Time of a score as a multiple of one ``X @ coef``, against pyinfluence, and memory above X.

Each line times a call as a user would write it and what it is compared with, turn by turn, in one process on one
thread: the figure is the median of the ratios of the pairs. The data are drawn, the models fitted with
``LogisticRegression``, and 1,000 validation rows are given. Memory is measured in processes of their own: resident
memory at its highest during the call, above what it was before (X, y and the model loaded, one small call made), and
the peak of Python's own count of allocations; the higher of the two is judged, the returned scores included.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from skinfluence import influence_scores

from . import _memory, _runner

VALIDATION_ROWS = 1000
MEMORY_LIMIT = 16.0  # MiB above X
PYINFLUENCE = "pyinfluence's FunctionalInfluence"
PRODUCT = "X @ coef"


@dataclass(frozen=True)
class Case:
    """Fitted model and rows of one line."""

    fitted: LogisticRegression
    X: Any
    y: np.ndarray
    X_val: Any
    y_val: np.ndarray

    def scores(self, method: str) -> np.ndarray:
        judges = () if method.startswith("self_") else (self.X_val, self.y_val)  # self-influence has no validation rows
        return influence_scores(self.fitted, self.X, self.y, *judges, method=method)

    def product(self) -> np.ndarray:
        coef = self.fitted.coef_
        return self.X @ (coef[0] if len(coef) == 1 else coef.T)

    def pyinfluence(self) -> np.ndarray:
        """The quickest way there: the mean loss as one functional, not one row of scores per validation row."""
        from pyinfluence import FunctionalInfluence, functionals

        attributor = FunctionalInfluence(functionals.mean("losses")).fit(self.fitted, self.X, self.y)
        return attributor.explain(self.X_val, self.y_val)


def make_case(
    kind: str,
    n: int,
    d: int,
    n_classes: int = 2,
    class_weight: str | None = None,
    *,
    dtype: type = np.float64,
    fit_rows: int | None = None,
) -> Case:
    """Draw rows of a kind ("dense", "Fortran", "correlated", "CSR", "CSC") with noisy linear labels, fit on some."""
    rng = np.random.default_rng(0)
    rows = n + VALIDATION_ROWS
    if kind in ("CSR", "CSC"):
        X = sp.csr_array(sp.random(rows, d, density=0.01, format="csr", dtype=dtype, random_state=rng))
    else:
        X = rng.standard_normal((rows, d), dtype=dtype)
    if kind == "correlated":  # a spectrum that falls by 10^3, turned: what embeddings look like
        turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
        X = X @ (np.geomspace(1, 1e-3, d) ** 0.5 * turn).astype(dtype)
    weights = rng.standard_normal((d, n_classes)).astype(dtype)
    outputs = X @ weights
    outputs += outputs.std() * rng.gumbel(size=outputs.shape).astype(dtype) / 2
    y = outputs.argmax(axis=1)
    fitted = LogisticRegression(max_iter=500, class_weight=class_weight).fit(X[: fit_rows or n], y[: fit_rows or n])
    own = X[:n].tocsc() if kind == "CSC" else np.asfortranarray(X[:n]) if kind == "Fortran" else X[:n]
    return Case(fitted, own, y[:n], X[n:], y[n:])


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def import_seconds(module: str) -> float:
    """What a fresh interpreter takes for it, once its bytecode is there."""
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def _own_seconds(call: Callable[[], Any]) -> float:
    """Of a call that says what it took."""
    return float(call())


@dataclass(frozen=True)
class Line:
    """A timed call, what it is a multiple of, what was asked, what times both, and how often at least."""

    name: str
    ours: Callable[[], Any]
    reference: Callable[[], Any]
    of: str
    asked: float | None = None
    seconds_of: Callable[[Callable[[], Any]], float] = _seconds
    least: int = 5


def lines(small: bool) -> list[Line]:
    """Everything that is timed."""
    n, m = (10_000, 2_000) if small else (100_000, 20_000)
    binary, multi = make_case("dense", n, 50), make_case("dense", m, 384, 10)
    binary32 = make_case("dense", n, 50, dtype=np.float32)
    multi32 = make_case("dense", m, 384, 10, dtype=np.float32)
    sparse, correlated = make_case("CSR", n, 5000), make_case("correlated", m, 384, 10)
    two, ten, csr = f"{n:,}×50, 2 classes", f"{m:,}×384, 10 classes", f"CSR {n:,}×5,000, 2 classes"
    ip, scores = partial(binary.scores, "ip"), Case.scores
    return [
        Line(f"ip, {two}", ip, binary.product, PRODUCT, 2.5),
        Line(f"ip, {ten}", partial(scores, multi, "ip"), multi.product, PRODUCT, 1.5),
        Line(f"ip, {csr}", partial(scores, sparse, "ip"), sparse.product, PRODUCT, 3.5),
        Line(f"ip_ensemble, {two}", partial(scores, binary, "ip_ensemble"), binary.product, PRODUCT, 6),
        Line(f"ip_ensemble, {two}", partial(scores, binary, "ip_ensemble"), ip, "ip", 4),
        Line(f"ip_ensemble, {ten}", partial(scores, multi, "ip_ensemble"), multi.product, PRODUCT),
        Line(f"exact, {two}", partial(scores, binary, "exact"), binary.pyinfluence, PYINFLUENCE, 0.5),
        Line(f"exact, {two}", partial(scores, binary, "exact"), binary.product, PRODUCT),
        Line(f"exact, {ten}", partial(scores, multi, "exact"), multi.product, PRODUCT, 80),
        Line(f"exact, {ten}, correlated", partial(scores, correlated, "exact"), correlated.product, PRODUCT),
        Line(f"self_tracin, {two}", partial(scores, binary, "self_tracin"), binary.product, PRODUCT, 2),
        Line(f"self_tracin, {ten}", partial(scores, multi, "self_tracin"), multi.product, PRODUCT, 2),
        Line(f"ip, {two}, float32", partial(scores, binary32, "ip"), ip, "float64", 0.7),
        Line(f"ip, {ten}, float32", partial(scores, multi32, "ip"), partial(scores, multi, "ip"), "float64", 0.7),
        Line(
            "import skinfluence", partial(import_seconds, "skinfluence"),
            partial(import_seconds, "sklearn.linear_model"), "import sklearn.linear_model", 1.15,
            _own_seconds, 2 if small else 21,
        ),
    ]  # fmt: skip


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """Time every line on one thread, then measure memory; `data_home` is not used."""
    with threadpool_limits(1):
        timings = [time_line(line, seconds=0.2 if quick else 4.0) for line in lines(quick)]
    memory = [_memory.in_fresh_process(extra_memory, *spec) for spec in memory_specs(quick)]
    gates = []
    if not quick:  # what was asked was asked of the full sizes
        gates += [_runner.gate(_gate_name(row), row["ratio"], row["asked"]) for row in timings if row["asked"]]
        gates += [_runner.gate(_gate_name(row), max(row["resident"], row["traced"]), MEMORY_LIMIT) for row in memory]
    return {
        "about": " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "seeds": [0],
        "threads": 1,
        "validation_rows": VALIDATION_ROWS,
        "rows": timings,
        "memory": memory,
        "gates": gates,
    }


def time_line(line: Line, seconds: float) -> dict[str, Any]:
    """Medians over pairs timed turn by turn, for about so many seconds (101 pairs at most)."""

    def pair() -> tuple[float, float]:
        return line.seconds_of(line.reference), line.seconds_of(line.ours)

    once = min(sum(pair()), sum(pair()))  # the first warms up
    pairs = [pair() for _ in range(int(np.clip(seconds / once, line.least, 101)))]
    ratios = [ours / reference for reference, ours in pairs]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "call": line.name,
        "of": line.of,
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(quarters[0], 4), round(quarters[2], 4)],
        "ms": round(1e3 * statistics.median(ours for _, ours in pairs), 4),
        "reference_ms": round(1e3 * statistics.median(reference for reference, _ in pairs), 4),
        "pairs": len(pairs),
        "asked": line.asked,
    }


def memory_specs(small: bool) -> list[tuple]:
    """What memory is measured for: method, then the arguments of `make_case`."""
    few, many = (20_000, 50_000) if small else (100_000, 1_000_000)
    specs = [
        (method, "dense", n, 50, 2) for method in ("ip", "ip_ensemble", "exact", "self_tracin") for n in (few, many)
    ]
    specs += [(method, "dense", n, 50, 10) for method in ("ip", "exact") for n in (few, many)]
    specs += [(method, "dense", n, 50, 2, "balanced") for method in ("ip", "self_tracin") for n in (few, many)]
    specs += [("cg", "dense", n, 50, 2) for n in (few, many)]
    # The layout of the columns of a frame.
    specs += [
        (method, "Fortran", n, 50, 2)
        for method in ("ip", "ip_ensemble", "exact", "cg", "self_tracin")
        for n in (few, many)
    ]
    specs += [("ip", "Fortran", n, 50, 10) for n in (few, many)]
    return specs + [
        (method, kind, n, 2000, 2) for method in ("ip", "self_tracin") for kind in ("CSR", "CSC") for n in (few, many)
    ]


def extra_memory(method: str, kind: str, n: int, d: int, n_classes: int, class_weight: str | None = None) -> None:
    """Print, as JSON, the MiB a call needed above what was there before it."""
    with threadpool_limits(1):
        case = make_case(kind, n, d, n_classes, class_weight, fit_rows=5000)
        warm = 1000  # lets the modules be imported; more would leave freed memory to be used again, unseen
        Case(case.fitted, case.X[:warm], case.y[:warm], case.X_val, case.y_val).scores(method)
        gc.collect()
        before = _memory.resident(reset=True)
        scores = case.scores(method)
        resident = _memory.resident() - before
        tracemalloc.start()
        case.scores(method)
        traced = tracemalloc.get_traced_memory()[1] / 2**20
    X = case.X
    stored = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if sp.issparse(X) else X.nbytes
    found = {
        "call": f"{method}, {'' if kind == 'dense' else kind + ' '}{n:,}×{d:,}, {n_classes} classes"
        f"{'' if class_weight is None else ', ' + class_weight}",
        "X": round(stored / 2**20, 2),
        "resident": round(resident, 2),
        "traced": round(traced, 2),
        "scores": round(scores.nbytes / 2**20, 2),
    }
    print(json.dumps(found))


def _gate_name(row: dict[str, Any]) -> str:
    return f"{row['call']} / {row['of']}" if "of" in row else f"MiB above X: {row['call']}"


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    passed = {entry["gate"]: entry["passed"] for entry in result["gates"]}
    timed = [
        {
            "call": row["call"],
            "of": row["of"],
            "ratio": f"{row['ratio']:.2f}",
            "quartiles": "{:.2f} to {:.2f}".format(*row["ratio_quartiles"]),
            "ms": f"{row['ms']:.2f}",
            "reference ms": f"{row['reference_ms']:.2f}",
            "asked": f"≤ {row['asked']:g}" if _gate_name(row) in passed else None,
            "passed": passed.get(_gate_name(row)),
        }
        for row in result["rows"]
    ]
    memory = [
        {
            "call": row["call"],
            "X, MiB": f"{row['X']:.1f}",
            "above X, resident": f"{row['resident']:.1f}",
            "above X, traced": f"{row['traced']:.1f}",
            "the scores themselves": f"{row['scores']:.1f}",
            "asked": f"≤ {MEMORY_LIMIT:g}" if _gate_name(row) in passed else None,
            "passed": passed.get(_gate_name(row)),
        }
        for row in result["memory"]
    ]
    return {"Time, one thread": timed, "Memory above X, MiB": memory}
