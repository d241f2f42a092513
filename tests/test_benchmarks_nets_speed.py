"""The speed of nets: a tiny run, what is left out of it and why, and the gates, of stored rows alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import _memory, _net_memory, _net_peers, _nets, _runner, nets_speed

MLP = nets_speed.WIDE_MLP


@pytest.fixture
def without_packages(monkeypatch):
    """Whatever is installed, none of the other packages is asked: they take seconds to set up."""
    monkeypatch.setattr(_net_peers.Peer, "missing", "not asked here")


@pytest.mark.slow
def test_a_quick_run_times_the_package_and_is_stored(without_packages, tmp_path):
    result = _runner.run("nets_speed", quick=True, data_home=None)
    rows = {(row["net"], row["call"]): row for row in result["rows"]}
    assert {net for net, _ in rows} == {MLP, "CNN with BatchNorm"}
    for (_, call), row in rows.items():
        if row["ours"]:
            assert min(row["forward_ms"], row["ms"]) > 0, call
            assert row["error"] <= nets_speed.TOLERANCE["float32"], call
        elif call not in (nets_speed.VMAP, "squared norms by vmap"):
            assert row["reason"] == "not asked here"
    assert {"datainf", "ekfac", "ekfac, drawn labels", "cg, 10 iterations"} <= {
        call for net, call in rows if net == MLP
    }
    stored, tables = _runner.save(result, tmp_path)
    assert json.loads(stored.read_text(encoding="utf-8"))["rows"] == result["rows"]
    assert f"{MLP}: 94,218 parameters" in tables.read_text(encoding="utf-8")


def small_case():
    return _nets.make_case("small", _nets.mlp(3, 4, 10), (3,), 80, (16,))


def test_wrong_scores_are_not_timed():
    case = small_case()
    wrong = nets_speed.Line("wrong", lambda c, batch: np.zeros(c.n), "all")
    (row,) = nets_speed.time_net(case, [wrong], 0.05, 1)
    assert "ms" not in row
    assert row["reason"] == "ValueError: the scores differ: an error of 1"
    with pytest.raises(ValueError, match="the scores differ"):
        nets_speed.time_net(case, [nets_speed.Line("ip", wrong.scores, "all", ours=True)], 0.05, 1)


def test_a_package_that_takes_long_is_not_timed(monkeypatch):
    monkeypatch.setattr(nets_speed, "PATIENCE", 0.0)
    (row,) = nets_speed.time_net(small_case(), [nets_speed.Line("vmap", _nets.by_vmap, "all")], 0.05, 1)
    assert "ms" not in row
    assert row["reason"] == "over 0 s for 60 rows"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux's count of resident memory")
def test_a_score_takes_no_memory_beyond_a_forward_pass_and_none_that_grows_with_the_rows():
    """A forward pass of 20,000 rows at once keeps 39 MiB of activations; gradients of the rows would take 7 GiB."""

    def needed(call, share=1):
        found = _memory.in_fresh_process(_net_memory.extra, 1, False, call, share, environment=_memory.FREED_AT_ONCE)
        assert (found["net"], found["rows"]) == (MLP, 20_000 // share)
        return found["resident"]

    forward = needed(_net_memory.FORWARD)
    for call in ("ip", "self_tracin"):
        whole = needed(call)
        assert whole < 0.75 * forward, call
        assert whole - needed(call, 4) < 4, call  # outputs, cotangents and scores of 15,000 rows


def test_the_table_of_memory_is_of_every_net_and_call():
    rows = [
        {"net": net, "call": call, "rows": 200, "fewer_rows": 50, "parameters": 0.4, "resident": mib, "of_fewer": 1.0}
        for net in (MLP, "ResNet-18")
        for call, mib in ((_net_memory.FORWARD, 40.0), ("ip", 20.0), ("self_tracin", 44.0), ("ip_ensemble", 8.0))
    ]
    assert _net_memory.table(rows)[1] == {
        "net": MLP, "call": "ip", "rows": "200", "MiB": "20.0", "of a quarter of the rows": "1.0",
        "parameters, MiB": "0.40",
    }  # fmt: skip
    found = {gate["gate"]: (gate["value"], gate["passed"]) for gate in _net_memory.gates(rows)}
    assert found == {
        f"{MLP}: MiB of {call} / {_net_memory.FORWARD}": (value, passed)
        for call, value, passed in (("ip", 0.5, True), ("self_tracin", 1.1, False), ("ip_ensemble", 0.2, True))
    }


def stored_row(call: str, ratio: float | None, whole: float | None, **more):
    common = {"net": MLP, "part": "packages", "call": call, "covered": "all", "ours": True, "kind": call}
    return common | {"ratio": ratio, "whole": whole} | more


def test_gates_ask_of_the_ratio_or_of_the_whole():
    rows = [
        stored_row("ip", 3.0, 3.6),
        stored_row("self_tracin", None, 4.0),
        stored_row("datainf", 9.3, 10.0),
        stored_row(nets_speed.VMAP, 29.0, None, ours=False, kind="ip"),
        stored_row("peer by row", 40.0, None, ours=False, kind="self_tracin"),
        stored_row("peer of much set-up", None, 36.0, ours=False, kind="ip"),
        stored_row("peer that is set-up alone", None, None, ours=False, kind="ip"),
        stored_row("ip", 1.0, 1.0) | {"part": "options"},
    ]
    found = {gate["gate"]: (gate["value"], gate["passed"]) for gate in nets_speed.gates(rows)}
    assert found == {
        f"{MLP}: ip": (3.0, True),
        f"{MLP}: self_tracin, set-up included": (4.0, False),
        f"{MLP}: datainf / ip": (3.1, False),
        f"{MLP}: {nets_speed.VMAP} / ip": (9.6667, False),
        f"{MLP}: peer of much set-up / ip, set-up included": (10.0, True),
        f"{MLP}: peer by row / self_tracin, set-up included": (10.0, True),
    }


def test_a_call_with_a_long_set_up_is_timed_on_all_rows():
    def slow(case, batch):
        began = time.process_time()
        while time.process_time() < began + 0.06:
            pass
        return _nets.by_vmap(case, batch)

    quick, late = nets_speed.time_net(
        small_case(), [nets_speed.Line("vmap", _nets.by_vmap, "all"), nets_speed.Line("slow", slow, "all")], 0.0005, 1
    )
    assert quick["whole"] is None or quick["setup_ms"] > 0.5
    assert late["setup_ms"] >= 60
    assert late["whole"] is not None


@pytest.mark.parametrize(("setup", "rounds", "told"), [(0.0, 8, True), (0.03, 8, True), (0.03, 5, False)])
def test_short_calls_have_more_rounds_and_are_told_from_their_set_up(setup, rounds, told, monkeypatch):
    monkeypatch.setattr(nets_speed, "MOST_ROUNDS", rounds)
    monkeypatch.setattr(nets_speed, "TELLING", 8)

    def scores(case, batch):
        began = time.process_time()
        while time.process_time() < began + setup:
            pass
        return _nets.by_vmap(case, batch)

    (row,) = nets_speed.time_net(small_case(), [nets_speed.Line("vmap", scores, "all")], 0.05, 5)
    assert row["rounds"] == rounds
    assert (row["ratio"] is not None) == told
    if told:
        low, high = row["ratio_range"]
        assert low <= row["ratio"] <= high
    assert nets_speed._cells(row)["rounds"] == rounds
