"""Cost of scores of large nets on an accelerator, in plain forward passes, with the memory that they take.

ResNet-18 on 50,000 images of 32 × 32 and a transformer encoder of 12 layers, as wide as the small vision transformer
(384), on 50,000 sequences of 64 vectors, on the first CUDA device; nothing is read and nothing need be set. Each line
times a whole call, validation gradient and set-up included, turn by turn with a plain forward pass over the same rows
(`no_grad`, blocks of 512); the device is waited for before and after. The figure is the median of the ratios of three
rounds. Rows and labels are drawn, the nets trained for five steps; validation rows are a twentieth of the training
rows. "Peak" is the most memory of the device that tensors took during the call, "above forward" what that is beyond a
plain forward pass.

Before it is timed, each call's scores for 24 rows are held to a backward pass for each row in double precision on the
same device; "error" is the largest difference by the largest score. Per-row gradients by vmap and other packages (where
they are installed; captum is given whole batches of what lies on the device already, kronfluence loads its own), held
to the same, are timed on fewer rows and their cost for each row taken; what they take for eight rows, which is their
set-up, is left out of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import _runner
from ._stored_parts import Parts

ROUNDS = 3
CHECKED = 24
#: The device's convolutions are done in TF32, of ten bits.
TOLERANCE = {None: 5e-2, "bfloat16": 0.2}
VMAP = "per-row gradients by vmap"
FEW_ROWS, FEW_SECONDS = 2048, 1.0
#: Of vmap and of other packages, where what is kept of a row is its gradient.
BATCH = 64
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
    parts = Parts.of_environment()
    rows: list[dict[str, Any]] = []
    made: dict[str, Any] = {}
    for ours in (True, False):  # the package's own first, should others not come to an end
        for title, make in cases(quick):
            for line in lines(ours):

                def timed(title: str = title, make: Any = make, line: Line = line) -> dict[str, Any]:
                    if title not in made:
                        made[title] = make().to(device)
                    return time_line(made[title], device, 1 if quick else ROUNDS, line)

                rows.append(parts.rows(f"{title} on {name}, {line.label}", timed))
    return {
        "about": _runner.about(__doc__, f"Drawn with seed 0. Made on {name}."),
        "seeds": [0],
        "device": name,
        "rows": rows,
    }


def cases(quick: bool) -> list[tuple[str, Callable[[], Any]]]:
    """Titles of the nets, and what makes them, still on the CPU."""
    from . import _nets

    n = 40 if quick else 50_000
    encoder = (16, 16, 2, 2) if quick else (64, 384, 6, 12)
    images, steps = (8, 4) if quick else (32, 64)
    resnet = _nets.small_cnn if quick else _nets.resnet18
    first, second = "CNN" if quick else "ResNet-18", f"transformer encoder, {encoder[3]} layers"
    return [
        (first, lambda: _nets.make_case(first, resnet(), (3, images, images), n, (32,))),
        (second, lambda: _nets.make_case(second, _nets.Encoder(*encoder), (steps, encoder[0]), n, (32,))),
    ]


def time_line(case: Any, device: Any, rounds: int, line: Line) -> dict[str, Any]:
    """What a line costs, or, of another package, why it could not be asked."""
    from . import _nets

    row = {"net": case.name, "parameters": case.n_params, "n": case.n, "call": line.label}
    forward = partial(_nets.forward_pass, case, 512)
    _timed(forward, device)  # kernels are chosen
    try:
        row["error"] = _error(case, line)
        part = case if line.ours else _fewer(case, line, device)
    except Exception as error:  # a package may raise anything at a net it has no way with
        if line.ours:
            raise
        return row | {"reason": f"{type(error).__name__}: {error}"}
    ratios, units, peak, base = [], [], 0, 0
    for _ in range(rounds):
        unit, memory = _timed(forward, device)
        setup = 0.0 if line.ours else _timed(partial(line.call, case.first(8, 8)), device)[0]
        taken, above = _timed(partial(line.call, part), device)
        units.append(unit)
        ratios.append((taken - setup) * case.n / part.n / unit)
        peak, base = max(peak, above), max(base, memory)
    on_device = device.type == "cuda"
    return row | {
        "timed_rows": part.n,
        "forward_ms": round(1e3 * statistics.median(units), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "peak_mib": round(peak / 2**20, 1) if on_device else None,
        "above_forward_mib": round((peak - base) / 2**20, 1) if on_device else None,
    }


def _fewer(case: Any, line: Line, device: Any) -> Any:
    """The case with as many rows as take a second or so, as one batch says."""
    setup, taken = (_timed(partial(line.call, case.first(n, n // 8)), device)[0] for n in (8, BATCH))
    n = int(np.clip(FEW_SECONDS / max((taken - setup) / BATCH, 1e-6), BATCH, FEW_ROWS))
    return case.first(min(n, case.n), max(min(n, case.n) // 20, 1))


@dataclass(frozen=True)
class Line:
    """What is timed: a function of a case, the parameters that it covers, and "ip" or "self_tracin"."""

    label: str
    call: Callable[[Any], Any]
    covered: str
    kind: str
    dtype: str | None = None
    ours: bool = False
    missing: str | None = None


def lines(ours: bool) -> list[Line]:
    """The package's own calls; or vmap, and the packages that can be asked on a device."""
    from . import _net_peers, _nets

    own = [
        Line(
            label, partial(scores, method=method, dtype=dtype, parameters=parameters),
            _nets.ALL if parameters == "all" else _nets.HEAD, method, dtype, ours=True,
        )
        for label, method, dtype, parameters in CALLS
    ]  # fmt: skip
    if ours:
        return own
    return [Line(VMAP, lambda case: _nets.by_vmap(case, BATCH), _nets.ALL, "ip")] + [
        Line(peer.label, partial(peer, batch=BATCH), peer.covered, peer.kind, missing=peer.missing)
        for peer in _net_peers.PEERS
        if peer.label in _net_peers.ON_DEVICES
    ]


def _error(case: Any, line: Line) -> float:
    """The largest difference from backward passes of single rows, by the largest score."""
    from . import _nets

    if line.missing is not None:
        raise ModuleNotFoundError(line.missing)
    few = case.first(CHECKED, CHECKED // 3)
    wanted = _nets.reference(few, line.covered, line.kind == "self_tracin").cpu().numpy()
    found = line.call(few)
    found = found if isinstance(found, np.ndarray) else found.cpu().numpy()
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not error <= TOLERANCE[line.dtype]:
        raise RuntimeError(f"{case.name}, {line.label}: the scores differ from the rows' own: an error of {error:.2g}.")
    return float(f"{error:.2g}")


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
                **(dict.fromkeys(_FIGURES) if "reason" in row else _figures(row)),
                "remark": row.get("reason", ""),
            }
            for row in own
        ]
    return made


_FIGURES = ("forward passes", "range", "rows timed", "peak, MiB", "above forward, MiB", "error")


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a call."""
    spread = "{:.2f} to {:.2f}".format(*row["ratio_range"])
    memory = [None if mib is None else round(mib) for mib in (row["peak_mib"], row["above_forward_mib"])]
    found = f"{row['ratio']:.2f}", spread, row["timed_rows"], *memory, f"{row['error']:.1e}"
    return dict(zip(_FIGURES, found, strict=True))
