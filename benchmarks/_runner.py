"""Runs a benchmark, stores what it found as JSON, and makes Markdown of the stored JSON alone."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_info

RESULTS = Path(__file__).parent / "results"
MEASUREMENTS = ("noise", "fidelity", "speed", "nets_speed", "nets_gpu", "large")
EXPERIMENTS = ("synthetic", "moons", "moons_objectives", "defence", "fairness", "text", "cost", "beyond", "vision")
NAMES = (*MEASUREMENTS, *EXPERIMENTS)
_PACKAGES = (
    "numpy", "scipy", "scikit-learn", "joblib", "skinfluence", "cleanlab", "pyinfluence", "fairlearn", "torch",
    "skorch", "dask", "distributed", "pyarrow", "captum", "dattri", "kronfluence", "pyDVL", "transformers",
)  # fmt: skip


def benchmark(name: str) -> ModuleType:
    """Module of a benchmark: ``run(quick, data_home) -> dict`` and ``tables(result) -> {title: rows}``.

    One that has figures gives them by ``figures(result) -> {name: matplotlib figure}``.
    """
    if name not in NAMES:
        raise SystemExit(f"No benchmark named {name!r}: there are {', '.join(NAMES)}.")
    return importlib.import_module(f"benchmarks.{'experiments.' if name in EXPERIMENTS else ''}{name}")


def run(name: str, *, quick: bool, data_home: str | None) -> dict[str, Any]:
    """Run one benchmark; its rows with everything needed to judge or repeat them."""
    module = benchmark(name)
    load_before = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    started = datetime.now(UTC)
    found = module.run(quick=quick, data_home=data_home)
    seconds = (datetime.now(UTC) - started).total_seconds()
    return {
        "benchmark": name,
        "quick": quick,
        "date": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "revision": revision(),
        "versions": versions(),
        "machine": {**machine(), "load_before": load_before},
        **found,
    }


def about(doc: str | None, run: str) -> str:
    """What a module's docstring says below its first line, as Markdown paragraphs, and a last one on this run."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in [*(doc or "").split("\n\n")[1:], run])


def over_cores(function: Callable, tasks: Iterable[tuple]) -> list[Any]:
    """``function(*task)`` for every task, one core and one BLAS thread a task."""
    with parallel_config(backend="loky", inner_max_num_threads=1):
        return Parallel(n_jobs=int(machine()["cores"]))(delayed(function)(*task) for task in tasks)


def aggregate(rows: Iterable[Mapping[str, Any]], by: Sequence[str], values: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of single seeds -> one row a group, each value as ``{"mean", "std", "seeds"}``; all-missing is None.

    The spread is the sample standard deviation over seeds (None for a single seed), and ``seeds`` holds what each seed
    gave, in order. Groups keep the order of their first appearance.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    return [
        dict(zip(by, group, strict=True)) | {value: _spread([row.get(value) for row in members]) for value in values}
        for group, members in groups.items()
    ]


def _spread(values: list[float | None]) -> dict[str, Any] | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    std = round(float(np.std(known, ddof=1)), 6) if len(known) > 1 else None
    return {"mean": round(float(np.mean(known)), 6), "std": std, "seeds": [round(value, 6) for value in known]}


def gate(name: str, value: float, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    """A figure beside what was asked of it."""
    passed = value >= limit if at_least else value <= limit
    return {
        "gate": name,
        "value": round(float(value), 4),
        "asked": f"{'≥' if at_least else '≤'} {limit:g}",
        "passed": bool(passed),
    }


def save(result: Mapping[str, Any], folder: Path = RESULTS) -> tuple[Path, Path]:
    """Store a result as JSON, then its tables as Markdown and its figures as PNG, made from that file."""
    folder.mkdir(parents=True, exist_ok=True)
    stored, tables = folder / f"{result['benchmark']}.json", folder / f"{result['benchmark']}.md"
    stored.write_text(_dumps(result) + "\n", encoding="utf-8")
    read = json.loads(stored.read_text(encoding="utf-8"))
    text = markdown(read)
    for name in draw(read, folder):
        text += f"\n![{name.replace('_', ' ')}]({name}.png)\n"
    tables.write_text(text, encoding="utf-8")
    return stored, tables


def draw(result: Mapping[str, Any], folder: Path = RESULTS) -> list[str]:
    """Store the figures of a stored result as PNG; their names."""
    module = benchmark(result["benchmark"])
    if not hasattr(module, "figures"):
        return []
    from . import _figures  # matplotlib, for benchmarks that draw

    with _figures.style():
        drawn = module.figures(result)
        for name, plot in drawn.items():
            _figures.save(plot, folder / f"{name}.png")
    return list(drawn)


def load(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The stored result of a benchmark."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"No stored result of {name!r}: run it first (python -m benchmarks run {name}).")
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(result: Mapping[str, Any]) -> str:
    """All tables of a stored result, with the machine and versions they were made on."""
    made_on = result["machine"]
    before = made_on["load_before"]
    load = "" if before is None else f" (load average {before} before it began)"
    lines = [
        f"# {result['benchmark']}{' (quick)' if result['quick'] else ''}",
        "",
        result["about"],
        "",
        f"Made {result['date'][:10]} in {result['seconds']:.0f} s on {made_on['cpu']}, {made_on['cores']} cores{load}, "
        f"{made_on['blas']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
    ]
    for title, rows in benchmark(result["benchmark"]).tables(result).items():
        lines += ["", f"## {title}", "", markdown_table(rows)]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of like rows; numbers to the right, a missing value as an en dash."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    numeric = [all(row[column] is None or _is_figure(row[column]) for row in rows) for column in columns]
    out = [columns, [("---:" if number else "---") for number in numeric]]
    out += [[_cell(row[column]) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in out)


def figure(value: Mapping[str, Any] | None, digits: int = 3) -> str | None:
    """An aggregated value as ``mean ± spread``."""
    if value is None:
        return None
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def with_spread(values: Iterable[float], digits: int = 2, *, signed: bool = True) -> str:
    """The mean of what single seeds gave and, if they are several, their sample standard deviation."""
    found = np.asarray(list(values), dtype=float)
    spread = f" ± {found.std(ddof=1):.{digits}f}" if len(found) > 1 else ""
    return f"{found.mean():{'+' if signed else ''}.{digits}f}{spread}"


def _is_figure(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith(tuple("0123456789+-≤≥"))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _dumps(result: Mapping[str, Any]) -> str:
    """JSON with one line a row, so that a change of one figure is a change of one line."""
    parts = []
    for key, value in result.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


def versions() -> dict[str, str]:
    """Versions of Python and of every package that is installed and matters here."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, BLAS and its threads."""
    cpu = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        models = [line.partition(":")[2].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    named = {f"{pool['internal_api']} {pool['version']} ({pool['num_threads']} threads)": None for pool in blas}
    return {"cpu": cpu, "cores": cores, "system": platform.system(), "blas": ", ".join(named) or "unknown BLAS"}


def revision() -> str | None:
    """The git revision of the code that ran, with ``-dirty`` when files differ from it; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
