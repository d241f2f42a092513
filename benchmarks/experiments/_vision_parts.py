"""The parts of the experiment, each stored when it is done, so that a run may be cut into many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .._stored_parts import Parts
from . import _vision_features, _vision_linear, _vision_net
from ._vision_data import NOISES, Home
from ._vision_linear import Sizes
from ._vision_net import NetSizes

LINEAR = "linear"
#: What a net's part is called in which the baselines are that train on folds.
FOLDS = ", folds"
Part = tuple[str, str, int]


@dataclass(frozen=True)
class Runs:
    """Kinds of noise and seeds of a net, and whether the baselines were run that train on folds."""

    noises: tuple[str, ...]
    seeds: range
    folds: bool = True


AllSizes = tuple[Sizes, Mapping[str, NetSizes]]
"""Of the linear head, and of each net."""


def parts(linear_seeds: range, nets: Mapping[str, Runs]) -> list[Part]:
    """(linear head, net, or net with `FOLDS` after its name; noise; seed) of every part."""
    found = [(LINEAR, noise, seed) for seed in linear_seeds for noise in NOISES]
    return found + [
        (f"{net}{kind}", noise, seed)
        for net, runs in nets.items()
        for kind in (("", FOLDS) if runs.folds else ("",))
        for seed in runs.seeds
        for noise in runs.noises
    ]


def compute(part: Part, data_home: Home, sizes: AllSizes) -> list[dict[str, Any]]:
    """The rows of a part."""
    name, noise, seed = part
    began = time.perf_counter()
    if name == LINEAR:
        rows = _vision_linear.one_seed(noise, seed, data_home, sizes[0])
    else:
        net = name.removesuffix(FOLDS)
        work = _vision_net.one_seed if net == name else _vision_net.folds
        rows = work(net, noise, seed, data_home, sizes[1][net])
    rows[0]["part_seconds"] = time.perf_counter() - began
    return rows


def stored_or_computed(part: Part, data_home: Home, sizes: AllSizes) -> list[dict[str, Any]]:
    """The rows of a part, from the cache folder if they were made there with the same sizes."""
    name, noise, seed = part
    return Parts(_vision_features.cache_folder() / "vision").rows(
        f"{name}-{noise}-{seed}",
        lambda: compute(part, data_home, sizes),
        settings=asdict(sizes[0] if name == LINEAR else sizes[1][name.removesuffix(FOLDS)]),
    )
