"""The parts of the experiment, each stored when it is done, so that a run may be cut into many."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .._stored_parts import Parts
from . import _vision_features, _vision_linear, _vision_net
from ._vision_data import NOISES, Home
from ._vision_linear import Sizes
from ._vision_net import NetSizes

LINEAR = "linear"
#: What a net's part is called in which the baselines are that train on folds.
FOLDS = ", folds"
#: In which methods are that the model's own part leaves out; a part can be of one, which it is then named for.
OTHERS = ", others"
SOLVERS = ", solvers"
LAST_LAYER = f", {_vision_net.SELF_LISSA}"
#: In which influence is that has no true label.
CROSS_FITTED = ", cross-fitted"
#: In which random removal and cleanlab of the linear head are, at every rate.
RATES = ", rates"
Part = tuple[str, str, int]


@dataclass(frozen=True)
class Runs:
    """Kinds of noise and seeds of a net, and its kinds of part beside its own."""

    noises: tuple[str, ...]
    seeds: range
    kinds: tuple[str, ...] = (FOLDS,)


AllSizes = tuple[Sizes, Mapping[str, NetSizes]]
"""Of the linear head, and of each net."""


def parts(linear_seeds: range, nets: Mapping[str, Runs]) -> list[Part]:
    """(linear head or net, its kind of part after its name; noise; seed) of every part."""
    found = [
        (f"{LINEAR}{kind}", noise, seed) for kind in ("", RATES, OTHERS) for seed in linear_seeds for noise in NOISES
    ]
    return found + [
        (f"{net}{kind}", noise, seed)
        for net, runs in nets.items()
        for kind in ("", *runs.kinds)
        for seed in runs.seeds
        for noise in runs.noises
    ]


def compute(part: Part, data_home: Home, sizes: AllSizes) -> list[dict[str, Any]]:
    """The rows of a part."""
    name, noise, seed = part
    model, kind = _model_and_kind(name)
    began = time.perf_counter()
    if model == LINEAR:
        of_head = {
            "": _vision_linear.one_seed,
            RATES: _vision_linear.baselines_swept,
            OTHERS: _vision_linear.others,
        }
        rows = of_head[kind](noise, seed, data_home, sizes[0])
    else:
        rows = _of_net(kind)(model, noise, seed, data_home, sizes[1][model])
    rows[0]["part_seconds"] = time.perf_counter() - began
    return rows


def _of_net(kind: str) -> Callable[..., list[dict[str, Any]]]:
    own = {"": _vision_net.one_seed, FOLDS: _vision_net.folds, CROSS_FITTED: _vision_net.cross_fitted}
    if kind in own:
        return own[kind]
    several = {OTHERS: _vision_net.OTHERS, SOLVERS: _vision_net.SOLVERS}
    return partial(_vision_net.others, methods=several.get(kind, (kind.removeprefix(", "),)))


def stored_or_computed(part: Part, data_home: Home, sizes: AllSizes) -> list[dict[str, Any]]:
    """The rows of a part, from the cache folder if they were made there with the same sizes."""
    name, noise, seed = part
    model, _ = _model_and_kind(name)
    return Parts(_vision_features.cache_folder() / "vision").rows(
        f"{name}-{noise}-{seed}",
        lambda: compute(part, data_home, sizes),
        settings=asdict(sizes[0] if model == LINEAR else sizes[1][model]),
    )


def _model_and_kind(name: str) -> tuple[str, str]:
    model, comma, kind = name.partition(", ")
    return model, comma + kind
