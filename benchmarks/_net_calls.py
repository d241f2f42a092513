"""The calls on a net that are timed: the package's, and those of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

IP, SELF = "ip", "self_tracin"
DATAINF, EKFAC, EKFAC_DRAWN, CG = "datainf", "ekfac", "ekfac, drawn labels", "cg, 10 iterations"
CURVED = (DATAINF, EKFAC, EKFAC_DRAWN, CG)
LABEL_SEED = 0
CG_DAMPING = 0.1
BFLOAT, COMPILED, BOTH = "ip, bfloat16", "ip, compiled", "ip, bfloat16, compiled"
VMAP = "per-row gradients by vmap"


@dataclass(frozen=True)
class Line:
    """A call that is timed: ``scores(case, batch)``; ``kind`` is the method that it is to agree with."""

    label: str
    scores: Callable[[Any, int], Any]
    covered: str
    kind: str = IP
    ours: bool = False
    dtype: str = "float32"
    missing: str | None = None
    compiled: bool = False


def ours(case: Any, batch: int, method: Any = "ip", covered: str = "all", **options: Any) -> Any:
    """Scores by the package, which finds the number of rows for a block itself."""
    from skinfluence import influence_scores
    from skinfluence.nets import DifferentiableNet

    from . import _nets

    parameters = "all" if covered == _nets.ALL else case.names(covered)
    net = DifferentiableNet((case.module, case.loss), parameters=parameters, **options)
    rows = [part.numpy() for part in (case.X, case.y, case.X_val, case.y_val)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        return influence_scores(net, *rows, method=method)


def options() -> list[Line]:
    """The package's own ways to compute the same."""
    half, compiled = {"dtype": "bfloat16"}, {"compile": True}
    return [
        Line(IP, ours, "all", ours=True),
        Line(COMPILED, partial(ours, **compiled), "all", ours=True, compiled=True),
        Line(BFLOAT, partial(ours, **half), "all", ours=True, dtype="bfloat16"),
        Line(BOTH, partial(ours, **half, **compiled), "all", ours=True, dtype="bfloat16", compiled=True),
    ]


def lines() -> list[Line]:
    """The package and others."""
    from skinfluence import methods
    from skinfluence.preconditioners import EKFACInverse

    from . import _net_peers, _nets

    curved = {
        DATAINF: "datainf",
        EKFAC: methods.EKFAC(labels="true"),
        # method="ekfac", with a seed by which the dense formula can draw the same labels.
        EKFAC_DRAWN: methods.GradientMethod(preconditioner=EKFACInverse(random_state=LABEL_SEED)),
        CG: methods.CG(damping=CG_DAMPING, tol=1e-12, max_iter=10),
    }
    made = [
        Line(IP, ours, _nets.ALL, ours=True),
        Line(f"ip, {_nets.PRODUCTS}", partial(ours, covered=_nets.PRODUCTS), _nets.PRODUCTS, ours=True),
        Line(f"ip, {_nets.HEAD_WEIGHT}", partial(ours, covered=_nets.HEAD_WEIGHT), _nets.HEAD_WEIGHT, ours=True),
        Line(VMAP, _nets.by_vmap, _nets.ALL),
    ]
    peers = [Line(p.label, p, p.covered, p.kind, missing=p.missing) for p in _net_peers.PEERS]
    made += [line for line in peers if line.kind == IP]
    made += [
        Line(SELF, partial(ours, method="self_tracin"), _nets.ALL, SELF, ours=True),
        Line("squared norms by vmap", _nets.self_by_vmap, _nets.ALL, SELF),
    ]
    made += [line for line in peers if line.kind == SELF]
    made += [Line(kind, partial(ours, method=method), _nets.ALL, kind, ours=True) for kind, method in curved.items()]
    return made + [line for line in peers if line.kind in CURVED]
