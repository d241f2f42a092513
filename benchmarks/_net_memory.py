"""The memory that scores of a net need, beside plain forward passes and gradients of the rows. Needs torch."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from . import _memory, _nets, _runner
from ._net_calls import ours

FORWARD, IN_BATCHES, VMAP = "a forward pass, all rows at once", "a forward pass, {} rows at once", "{} rows by vmap"
OURS = ("ip", "self_tracin", "ip_ensemble")
#: Whose parameters are few beside the activations of its rows.
ASKED = ("MLP 100–256–256–10", "CNN with BatchNorm", "transformer encoder")
SHARE = 4  # of the rows, which shows what grows with them


def measure(small: bool) -> list[dict[str, Any]]:
    """One row a net and call; `small` is of one net and two calls."""
    found = []
    for at, make in enumerate(_nets.cases(small)[: 1 if small else None]):
        batch = make().batches[0]
        for call in (FORWARD, "ip") if small else (FORWARD, IN_BATCHES.format(batch), *OURS, VMAP.format(batch)):
            whole, part = (
                _memory.in_fresh_process(extra, at, small, call, share, environment=_memory.FREED_AT_ONCE)
                for share in (1, SHARE)
            )
            found.append(whole | {"fewer_rows": part["rows"], "of_fewer": part["resident"]})
    return found


def extra(at: int, small: bool, call: str, share: int) -> None:
    """Print, as JSON, the MiB that a call needs above what was there before it: the net, its rows, and torch."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        case = _nets.cases(small)[at]()
        case = case.first(case.n // share)
        scores = _call(call, case.batches[0])
        for _ in range(2):  # what is imported, and made once
            scores(case.first(8, 8))
        gc.collect()
        before = _memory.resident(reset=True)
        scores(case)
        found = _memory.resident() - before
    parameters = case.n_params * 4 / 2**20
    print(json.dumps({"net": case.name, "call": call, "rows": case.n, "parameters": parameters, "resident": found}))


def _call(call: str, batch: int) -> Callable[[_nets.NetCase], Any]:
    if call in OURS:
        return partial(ours, batch=0, method=call)
    if call == VMAP.format(batch):
        return lambda case: _nets.by_vmap(case, batch)
    return lambda case: _nets.forward_pass(case, case.n if call == FORWARD else batch)


def gates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """No memory beyond a forward pass."""
    found = []
    for net in ASKED:
        own = {row["call"]: row["resident"] for row in rows if row["net"] == net}
        if own:
            found += [_runner.gate(f"{net}: MiB of {call} / {FORWARD}", own[call] / own[FORWARD], 1.0) for call in OURS]
    return found


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a net and call."""
    return [
        {
            "net": row["net"],
            "call": row["call"],
            "rows": f"{row['rows']:,}",
            "MiB": f"{row['resident']:.1f}",
            "of a quarter of the rows": f"{row['of_fewer']:.1f}",
            "parameters, MiB": f"{row['parameters']:.2f}",
        }
        for row in rows
    ]
