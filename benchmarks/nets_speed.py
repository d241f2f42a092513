"""Cost of a score of a torch net, in plain forward passes, beside other packages.

Each line times a whole call, validation gradient and set-up included, turn by turn with a plain forward pass over the
same training rows (`no_grad`, its best batch size), in one process on one thread; the figure is the median of the
ratios of all rounds. There are five of them, and up to 41 of calls so short that these take two seconds; the range is
from the lowest to the highest of five, and the middle half (the quartiles) of more. Times are processor time, which
other work on the machine touches least. Rows and labels are drawn, the nets trained for five steps; validation rows are
a twentieth of the training rows, 1,000 for 20,000.

The set-up (copying and looking at the net, checking derivatives, writing checkpoints and loading them, making loaders)
is what the same call takes for eight rows and eight validation rows, timed just before it in each round. It is shown
apart, and "forward passes" is the call less that, for it says nothing of larger data; a package's ratio on few rows
would be mostly set-up. "whole" has the set-up in. Of the tiny net's calls half and more is set-up: "forward passes" is
there a small difference of two times, and its range is wide. Where it is so in fewer than 20 rounds the difference is
noise, and only "whole" is given and asked. What would take long is timed on fewer rows, validation rows in proportion,
and its cost for each row taken; "whole" is then missing. Calls with a long set-up are timed on all rows.

Before it is timed, each call's scores for 60 rows are held to a backward pass for each row in double precision; "error"
is the largest difference by the largest score. The methods with a curvature (DataInf, EKFAC with the rows' own labels
and, as is the package's default, with labels drawn from the net's predictions, ten iterations of conjugate gradients)
are held to their dense formulas, that of drawn labels with the same draws; packages damp them in other ways, so that
"error" is there one minus the correlation, and is asked of this package alone. Packages are asked in the way that costs
them least, with the batch size that was quickest in a trial. Compiled calls are timed once all is compiled; what the
calls that compile took is said beside them. Some cover only some parameters: "linear and convolutional" leaves out the
norms', "last weight" is the weight of the last layer, and the package is asked the same beside them.

Memory is the highest that a process of its own had above the net, its rows and torch; buffers that are freed go back to
the system at once there. Of a net of many parameters the package holds some vectors as large as they are, in double
precision, whatever the rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import _runner
from ._net_calls import (
    CG,
    CG_DAMPING,
    CURVED,
    DATAINF,
    EKFAC,
    EKFAC_DRAWN,
    IP,
    LABEL_SEED,
    SELF,
    VMAP,
    Line,
    lines,
    options,
)
from ._stored_parts import Parts

ROUNDS = 5
MOST_ROUNDS = 41  # of calls of which so many take no longer than so many seconds
SECONDS_OF_ROUNDS = 2.0
TELLING = 20  # rounds of which the small difference of two times says something
FEW = 8  # rows of the call that the set-up is measured by
CHECKED = 60
PATIENCE = 10.0  # seconds that scoring those, or fewer, may take; a package that takes longer is not timed
LONGEST = 60.0  # seconds that a call on all rows may be expected to take; longer ones are timed on fewer
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
CAPTUM = "captum TracInCP"
WIDE_MLP = "MLP 100–256–256–10"


class _TakesLong(Exception):
    """A package is too slow to be timed."""


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """Time every line on every net, on one thread; `data_home` is not used."""
    import torch

    from . import _net_memory, _nets

    parts = Parts.of_environment()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            cases = [make() for make in _nets.cases(quick)]
            seconds, rounds = (0.05, 1) if quick else (0.5, ROUNDS)
            # Compiled functions first: some packages make torch forget them.
            rows = [
                row | {"part": part}
                for part, timed in (("options", options), ("packages", lines))
                if timed is lines or not quick  # compiling takes long
                for case in cases
                for row in parts.rows(f"{part}, {case.name}", partial(time_net, case, timed(), seconds, rounds))
            ]
            memory = parts.rows("memory", partial(_net_memory.measure, quick))
    finally:
        torch.set_num_threads(threads)
    return {
        "about": _runner.about(
            __doc__, "Drawn with seed 0. A run may be cut into parts; what is compared in a table is of one part."
        ),
        "seeds": [0],
        "threads": 1,
        "rows": rows,
        "memory": memory,
        "gates": [] if quick else [*gates(rows), *_net_memory.gates(memory)],
    }


def time_net(case: Any, timed: list[Line], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One row for each line; no package's call is given rows that would take it much longer than so many seconds."""
    from . import _nets

    forward_batch = min(
        (*case.batches, 16, min(case.n, 4096)), key=lambda b: _best(partial(_nets.forward_pass, case, b), 2)
    )
    forward = partial(_nets.forward_pass, case, forward_batch)
    common = {"net": case.name, "parameters": case.n_params, "n": case.n}
    references: dict[tuple[str, str], np.ndarray] = {}
    rows, prepared = [], []
    for line in timed:
        if line.kind in CURVED and case.name != WIDE_MLP:
            continue
        row = common | {"call": line.label, "covered": line.covered, "ours": line.ours, "kind": line.kind}
        rows.append(row)
        if line.missing:
            row["reason"] = line.missing
            continue
        try:
            prepared.append((row, line, *_prepare(case, line, row, references, seconds, min(rounds, 3))))
        except _TakesLong as error:
            row["reason"] = str(error)
        except Exception as error:  # a package may raise anything at a net it has no way with
            if line.ours:
                raise
            row["reason"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    found = _in_turn(case, forward, prepared, rounds)
    forward_ms = round(1e3 * statistics.median(unit for own in found for unit, _, _ in own), 3) if found else None
    for own, (row, _, part, _) in zip(found, prepared, strict=True):
        ratios = [(taken - setup) * case.n / part.n / unit for unit, setup, taken in own]
        setup, taken = (statistics.median(column) for column in list(zip(*own, strict=True))[1:])
        row["forward_ms"], row["rounds"] = forward_ms, len(own)
        row["ms"], row["setup_ms"] = round(1e3 * taken, 3), round(1e3 * setup, 3)
        noise = 2 * setup > taken and len(own) < TELLING
        ends = np.quantile(ratios, [0.25, 0.75] if len(own) > ROUNDS else [0, 1])
        row["ratio"] = None if noise else round(statistics.median(ratios), 4)
        row["ratio_range"] = None if noise else [round(float(end), 4) for end in ends]
        row["whole"] = round(row["ms"] / forward_ms, 4) if part.n == case.n else None
    return rows


def _in_turn(case: Any, forward: Callable[[], Any], prepared: list[Any], rounds: int) -> list[list[Any]]:
    """Seconds of a forward pass, of the set-up and of the call, of each line in each round."""
    found: list[list[Any]] = [[] for _ in prepared]
    wanted = [rounds] * len(prepared)
    for done in range(MOST_ROUNDS):
        for k, (_, line, part, batch) in enumerate(prepared):
            if done < wanted[k]:
                few = partial(line.scores, case.first(FEW, FEW), case.batches[0])
                found[k].append(tuple(map(_seconds, (forward, few, partial(line.scores, part, batch)))))
            if done == 0 and rounds > 1:
                wanted[k] = min(max(int(SECONDS_OF_ROUNDS / sum(found[k][0])), rounds), MOST_ROUNDS)
    return found


def _prepare(
    case: Any,
    line: Line,
    row: dict[str, Any],
    references: dict[tuple[str, str], np.ndarray],
    seconds: float,
    times: int,
) -> tuple[Any, int]:
    """Hold the scores to the reference, measure the set-up, find a batch size, and the rows to time it on."""
    few = case.first(CHECKED, CHECKED // 3)
    key = line.covered, line.kind
    if key not in references:
        references[key] = reference(few, *key)
    wanted = references[key]
    began = time.process_time()
    scores = np.asarray(line.scores(few, case.batches[0]))
    first = time.process_time() - began
    if not line.ours and first > PATIENCE:
        raise _TakesLong(f"over {PATIENCE:.0f} s for {len(few.X)} rows")
    if line.kind in CURVED:
        error = 1.0 - float(np.corrcoef(scores, wanted)[0, 1])
    else:
        error = float(np.abs(scores - wanted).max() / np.abs(wanted).max())
    row["error"] = float(f"{max(error, 0.0):.2g}")
    if not error <= TOLERANCE[line.dtype] and (line.ours or line.kind not in CURVED):
        raise ValueError(f"the scores differ: an error of {error:.2g}")
    row["setup_ms"] = round(1e3 * _best(partial(line.scores, case.first(FEW, FEW), case.batches[0]), times), 3)
    if line.ours:  # always the whole; and the package finds its own number of rows for a block
        if line.compiled:
            row["compile_s"] = round(first + _seconds(partial(line.scores, case, 0)), 2)
        row["batch"] = 0
        return case, 0
    trial = case.first(min(case.n, case.batches[-1]), max(len(case.X_val) // 20, FEW))
    taken = {}
    for batch in case.batches:
        taken[batch] = _seconds(partial(line.scores, trial, batch))
        if taken[batch] > PATIENCE:
            raise _TakesLong(f"over {PATIENCE:.0f} s for {trial.n} rows")
        if taken[batch] > 2 * seconds:
            break
    batch = min(taken, key=taken.__getitem__)
    row["batch"] = batch
    per_row = max(taken[batch] - row["setup_ms"] / 1e3, 1e-9) / trial.n
    n = int(np.clip(seconds / per_row, min(trial.n, case.batches[-1]), case.n))
    if row["setup_ms"] > 1e3 * seconds and per_row * case.n < LONGEST:
        n = case.n  # of fewer rows nothing would be seen but the set-up
    return case.first(n, max(len(case.X_val) * n // case.n, 1)), batch


def reference(case: Any, covered: str, kind: str) -> np.ndarray:
    """Scores by a backward pass for each row, and dense formulas, in double precision."""
    from . import _nets

    if kind == DATAINF:
        return _nets.dense_datainf(case)
    if kind == EKFAC:
        return _nets.dense_ekfac(case)
    if kind == EKFAC_DRAWN:
        return _nets.dense_ekfac(case, curved=_nets.with_drawn_labels(case, LABEL_SEED))
    if kind == CG:
        return _nets.dense_gauss_newton(case, CG_DAMPING)
    found: np.ndarray = _nets.reference(case, covered, kind == SELF).numpy()
    return found


def _seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _best(call: Callable[[], Any], times: int) -> float:
    return min(_seconds(call) for _ in range(times))


def gates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked: forward passes of `ip` and `self_tracin`, and how much faster than other ways."""
    from . import _nets

    found = []
    rows = [row for row in rows if row["part"] == "packages"]
    for net in dict.fromkeys(row["net"] for row in rows):
        own = {row["call"]: row for row in rows if row["net"] == net and "ratio" in row}
        for call, most in zip((IP, SELF), ASKED[net], strict=True):
            judged = "ratio" if own[call]["ratio"] is not None else "whole"
            note = "" if judged == "ratio" else ", set-up included"
            found.append(_runner.gate(f"{net}: {call}{note}", own[call][judged], most))
        others = [row for row in own.values() if not row["ours"]]
        for kind, most in MULTIPLES.items():
            if kind in own and own[kind]["ratio"] and own[IP]["ratio"]:
                found.append(_runner.gate(f"{net}: {kind} / ip", own[kind]["ratio"] / own[IP]["ratio"], most))
        for mine in (IP, SELF, *CURVED):
            for row in others:
                if row["kind"] == mine:
                    beside = f"ip, {row['covered']}" if row["covered"] == _nets.HEAD_WEIGHT else mine
                    times, note = _times(row, own[beside])
                    if times is None:
                        continue
                    least = 10.0 if mine in CURVED else 1.0
                    if net == WIDE_MLP and row["call"] == VMAP:
                        least = 10.0
                    elif net == WIDE_MLP and row["call"].startswith(CAPTUM) and row["covered"] != _nets.HEAD_WEIGHT:
                        least = 8.0
                    found.append(_runner.gate(f"{net}: {row['call']} / {beside}{note}", times, least, at_least=True))
    return found


def _times(row: dict[str, Any], own: dict[str, Any]) -> tuple[float | None, str]:
    """How many times the package's call another takes: without set-up where both are more than that, else with it.

    The other's set-up is left out where it was timed on fewer rows.
    """
    if row["ratio"] and own["ratio"]:
        return row["ratio"] / own["ratio"], ""
    taken = row["whole"] or row["ratio"]
    return (taken / own["whole"], ", set-up included") if taken else (None, "")


#: Method -> most times the cost of `ip`.
MULTIPLES = {SELF: 3.0, DATAINF: 3.0, EKFAC: 6.0, EKFAC_DRAWN: 6.0, CG: 20.0}
#: Net -> most forward passes asked of `ip` and of `self_tracin`.
ASKED = {
    "MLP 2–32–32–1": (7.0, 3.5),
    WIDE_MLP: (3.5, 3.5),
    "CNN with BatchNorm": (3.5, 3.5),
    "transformer encoder": (4.5, 4.5),
    "ResNet-18": (3.5, 3.5),
}


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made: dict[str, list[dict[str, Any]]] = {}
    packages, own_ways = ([r for r in result["rows"] if r["part"] == part] for part in ("packages", "options"))
    for net in dict.fromkeys(row["net"] for row in packages):
        own = [row for row in packages if row["net"] == net]
        unit = next((row["forward_ms"] for row in own if "forward_ms" in row), 0.0)
        title = f"{net}: {own[0]['parameters']:,} parameters, {own[0]['n']:,} rows, a forward pass {unit:.1f} ms"
        made[title] = [_cells(row) for row in own]
    if own_ways:
        made["Compiled, and in half precision"] = [_option_cells(row) for row in own_ways]
    if result.get("memory"):
        from . import _net_memory

        made["Memory above what was there, MiB"] = _net_memory.table(result["memory"])
    if result["gates"]:
        made["What was asked"] = [
            {"figure": gate["gate"], "found": f"{gate['value']:.2f}", "asked": gate["asked"], "passed": gate["passed"]}
            for gate in result["gates"]
        ]
    return made


def _option_cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = _cells(row)
    first = f"{row['compile_s']:.1f}" if "compile_s" in row else None
    kept = {name: cells[name] for name in ("call", "forward passes", "range", "rounds", "whole", "set-up, ms", "error")}
    return {"net": row["net"], **kept, "first calls, s": first}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    timed = "ratio" in row
    return {
        "call": row["call"],
        "parameters": row["covered"],
        "forward passes": f"{row['ratio']:.2f}" if row.get("ratio") is not None else None,
        "range": "{:.2f} to {:.2f}".format(*row["ratio_range"]) if row.get("ratio") is not None else None,
        "rounds": row.get("rounds", ROUNDS) if timed else None,
        "whole": f"{row['whole']:.2f}" if timed and row["whole"] is not None else None,
        "set-up, ms": f"{row['setup_ms']:.1f}" if timed else None,
        "batch": (row["batch"] or None) if timed else None,
        "error": f"{row['error']:.1e}" if timed else None,
        "remark": row.get("reason", ""),
    }
