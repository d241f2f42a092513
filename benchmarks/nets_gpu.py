"""Cost of scores of large nets on an accelerator, in plain forward passes, with the memory that they take.

ResNet-18 on 50,000 images of 32 × 32 and a transformer encoder of 12 layers on 50,000 sequences of 64 vectors, on the
first CUDA device; nothing is read and nothing need be set. Each line times a whole call, validation gradient and set-up
included, turn by turn with a plain forward pass over the same rows (`no_grad`, blocks of 512); the device is waited for
before and after. The figure is the median of the ratios of three rounds. Rows and labels are drawn, the nets trained
for five steps; validation rows are a twentieth of the training rows. "Peak" is the most memory of the device that
tensors took during the call, "above forward" what that is beyond a plain forward pass.

Before it is timed, each call's scores for 24 rows are held to a backward pass for each row, in the same precision and
on the same device; "error" is the largest difference by the largest score. Per-row gradients by vmap, held to the same,
are timed on fewer rows and their cost for each row taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import _runner

ROUNDS = 3
CHECKED = 24
TOLERANCE = {None: 1e-2, "bfloat16": 0.2}
VMAP = "per-row gradients by vmap"
VMAP_ROWS = 512
CALLS: tuple[tuple[str, str, str | None, Any], ...] = (
    ("ip", "ip", None, "all"),
    ("ip, bfloat16", "ip", "bfloat16", "all"),
    ("ip, last layer", "ip", None, "last_layer"),
    ("self_tracin", "self_tracin", None, "all"),
)
"""Label, method, dtype and parameters of what is timed of the package."""


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """Time every call on every net; `data_home` is not used. Quick is tiny, and on the CPU where there is no device.

    Raises
    ------
    SystemExit
        If torch sees no CUDA device, and it is no quick run.
    """
    import torch

    found = torch.cuda.is_available()
    if not found and not quick:
        raise SystemExit(
            "nets_gpu needs a CUDA device, and torch sees none. A quick run (--quick) is tiny and goes on the CPU."
        )
    device = torch.device("cuda" if found else "cpu")
    name = torch.cuda.get_device_name() if found else "the CPU"
    rows = [row for make in cases(quick) for row in time_net(make(), device, 1 if quick else ROUNDS)]
    return {
        "about": _runner.about(__doc__, f"Drawn with seed 0. Made on {name}."),
        "seeds": [0],
        "device": name,
        "rows": rows,
    }


def cases(quick: bool) -> list[Callable[[], Any]]:
    """The nets, still on the CPU."""
    from . import _nets

    n = 40 if quick else 50_000
    encoder = (16, 16, 2, 2) if quick else (64, 512, 8, 12)
    images, steps = (8, 4) if quick else (32, 64)
    resnet = _nets.small_cnn if quick else _nets.resnet18
    return [
        lambda: _nets.make_case("ResNet-18" if not quick else "CNN", resnet(), (3, images, images), n, (32,)),
        lambda: _nets.make_case(
            f"transformer encoder, {encoder[3]} layers", _nets.Encoder(*encoder), (steps, encoder[0]), n, (32,)
        ),
    ]


def time_net(case: Any, device: Any, rounds: int) -> list[dict[str, Any]]:
    """One row for each call."""
    from . import _nets

    case = case.to(device)
    few = case.first(CHECKED, CHECKED // 3)
    calls: list[tuple[str, Any, Callable[[Any], Any]]] = [
        (label, case, partial(scores, method=method, dtype=dtype, parameters=parameters))
        for label, method, dtype, parameters in CALLS
    ]
    part = case.first(VMAP_ROWS, max(min(VMAP_ROWS, case.n) // 20, 1))
    calls.append((VMAP, part, lambda c: _nets.by_vmap(c, 32).cpu().numpy()))
    rows = []
    forward = partial(_nets.forward_pass, case, 512)
    _timed(forward, device)  # kernels are chosen
    for (label, of, call), (_, method, dtype, parameters) in zip(
        calls, [*CALLS, (VMAP, "ip", None, "all")], strict=True
    ):
        covered = _nets.ALL if parameters == "all" else _nets.HEAD
        wanted = _nets.row_by_row(few, covered, method == "self_tracin").cpu().numpy()
        error = float(np.abs(call(few) - wanted).max() / np.abs(wanted).max())
        if not error <= TOLERANCE[dtype]:
            raise RuntimeError(f"{case.name}, {label}: the scores differ from the rows' own: an error of {error:.2g}.")
        rows.append(
            {"net": case.name, "parameters": case.n_params, "n": case.n, "call": label, "timed_rows": of.n}
            | {"error": float(f"{error:.2g}")}
        )
    ratios: list[list[float]] = [[] for _ in calls]
    units, peaks, base = [], [0] * len(calls), 0
    for _ in range(rounds):
        for i, (_, of, call) in enumerate(calls):
            unit, memory = _timed(forward, device)
            taken, peak = _timed(partial(call, of), device)
            units.append(unit)
            base = max(base, memory)
            peaks[i] = max(peaks[i], peak)
            ratios[i].append(taken * case.n / of.n / unit)
    for row, found, peak in zip(rows, ratios, peaks, strict=True):
        row["forward_ms"] = round(1e3 * statistics.median(units), 3)
        row["ratio"] = round(statistics.median(found), 4)
        row["ratio_range"] = [round(min(found), 4), round(max(found), 4)]
        on_device = device.type == "cuda"
        row["peak_mib"] = round(peak / 2**20, 1) if on_device else None
        row["above_forward_mib"] = round((peak - base) / 2**20, 1) if on_device else None
    return rows


def scores(case: Any, *, method: str, dtype: str | None, parameters: Any) -> np.ndarray:
    """The package's scores of a case, whose rows are tensors wherever they are."""
    from skinfluence import influence_scores
    from skinfluence.nets import DifferentiableNet

    net = DifferentiableNet((case.module, case.loss), parameters=parameters, dtype=dtype)
    found: np.ndarray = influence_scores(net, case.X, case.y, case.X_val, case.y_val, method=method)
    return found


def _timed(call: Callable[[], Any], device: Any) -> tuple[float, int]:
    """Seconds, and the most bytes of the device's memory that were taken at once (0 on the CPU)."""
    import torch

    on_device = device.type == "cuda"
    if on_device:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    call()
    if on_device:
        torch.cuda.synchronize()
    taken = time.perf_counter() - began
    return taken, torch.cuda.max_memory_allocated() if on_device else 0


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made: dict[str, list[dict[str, Any]]] = {}
    for net in dict.fromkeys(row["net"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["net"] == net]
        title = (
            f"{net} on {result['device']}: {own[0]['parameters']:,} parameters, {own[0]['n']:,} rows, a forward pass "
            f"{own[0]['forward_ms']:.1f} ms"
        )
        made[title] = [
            {
                "call": row["call"],
                "forward passes": f"{row['ratio']:.2f}",
                "range": "{:.2f} to {:.2f}".format(*row["ratio_range"]),
                "rows timed": row["timed_rows"],
                "peak, MiB": row["peak_mib"],
                "above forward, MiB": row["above_forward_mib"],
                "error": f"{row['error']:.1e}",
            }
            for row in own
        ]
    return made
