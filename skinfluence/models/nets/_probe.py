"""What is found out about a net on a few of its rows, before it is trusted with all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.exceptions import EfficiencyWarning

from ._engines import ENGINES, GRAPHED, engine_of, forward_graph, jacobians
from ._ghost import Plan
from ._net import Net, Tensors, as_leaves
from ._row_gradients import OwnRows, flattened, row_gradients
from ._rows import NetRows

# Measured: blocks whose widest activation fits in a core's own cache were near the best for every net tried; an
# accelerator wants more of them at once.
_CACHE_BYTES = {"cpu": 1 << 21}
_DEVICE_BYTES = 1 << 28
MOST_ROWS = 1 << 14
# Fewer than these are no gain, however wide: what is read for every block, the parameters, is then as much again.
FEWEST_ROWS = 16
# How far two right derivatives of the same outputs may be apart, relative to their size.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3}
LOOSE = 1e-1
N_PROBED = 5
_DEPENDENT = (
    "{} gives a row other outputs alone than together with others, in evaluation mode too, so that rows have no "
    "gradients of their own. Batch statistics (BatchNorm with track_running_stats=False) and branches on a whole batch "
    "do that."
)


@dataclass
class State:
    """What is learned of a net from the first rows it sees; shared by its copies at other parameters."""

    engine: str = "auto"
    block_rows: int | None = None
    form: Any = None  # of the first rows, where it says all; see `NetRows`
    few: NetRows | None = None
    own: OwnRows | None = None  # of those, where they are small
    engine_found: bool = False
    vmappable: bool | None = None
    jacobians_by_vmap: bool | None = None
    one_pass: bool | None = None  # whether `forward_graph` was found to be right
    twice: bool = False  # whether second derivatives were found to be symmetric
    plan: Plan | None = None
    asked: tuple[str, int | None] = ("auto", None)  # the engine and the block's rows that the user named, for the head
    head: Any = None  # of `NetModel.reduced`: the layer and a model of it, or None if there is none
    head_sought: bool = False
    refused: dict[str, str] = field(default_factory=dict)


def tolerance_of(net: Net) -> float:
    return TOLERANCE.get(net.dtype, LOOSE)


def look_at(net: Net, theta: Tensors, rows: NetRows, state: State) -> None:
    """The number of outputs and the size of blocks, from the first rows."""
    few = rows[: min(2, len(rows))]
    widest = [1]

    def note(module: Any, inputs: Any, output: Any) -> None:
        for part in (*inputs, *(output if isinstance(output, (tuple, list)) else [output])):
            if isinstance(part, torch.Tensor):
                widest.append(part.numel() * part.element_size() // len(few))

    hooks = [module.register_forward_hook(note) for module in net.module.modules()]
    try:
        with net.still(exact=True), torch.no_grad():
            batch = few.batch(net.device, net.cast)
            F = _first_outputs(net, theta, batch, few)
            while hooks:
                hooks.pop().remove()
            again = net.raw(theta, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if F.shape[0] != len(few):
        raise TypeError(f"A net must return one output a row: {len(few)} rows went in, {F.shape[0]} came out.")
    alike = torch.equal(F, again) or torch.allclose(F, again, rtol=tolerance_of(net), atol=tolerance_of(net))
    if not alike and bool(torch.isfinite(F).all()):
        raise TypeError(
            f"{net.name} gives other outputs each time although it is in evaluation mode: it draws at random in "
            "forward. Draw only where self.training is True."
        )
    cache = _CACHE_BYTES.get(net.device.type, _DEVICE_BYTES)
    memory = int(get_config()["working_memory"] * 2**20) // 8
    if state.block_rows is None:
        fitting = min(max(cache // max(widest), FEWEST_ROWS), memory // max(widest))
        state.block_rows = int(min(max(fitting, 1), MOST_ROWS))


def look_at_others(net: Net, theta: Tensors, rows: NetRows) -> None:
    """Raise if the net does not take these rows as it took those before."""
    few = rows[: min(2, len(rows))]
    with net.still(exact=True), torch.no_grad():
        F = _first_outputs(net, theta, few.batch(net.device, net.cast), few)
    if F.shape[1] != net.n_outputs:
        raise ValueError(
            f"{net.name} puts out {F.shape[1]} numbers a row for these rows and {net.n_outputs} for those before: rows "
            "must be of one length for that."
        )


def _first_outputs(net: Net, theta: Tensors, batch: Any, few: NetRows) -> torch.Tensor:
    try:
        out = net.ask(theta, batch)
    except (RuntimeError, IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
        kind = TypeError if isinstance(error, (KeyError, AttributeError, TypeError)) else ValueError
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise kind(
            f"{net.name} fails on these rows: {first}. Its parameters are {str(net.dtype).removeprefix('torch.')}, and "
            f"X is {few.described()}: give it rows as it was trained on."
        ) from error
    F = net.flattened(out)
    if not F.is_floating_point():
        raise TypeError(
            f"{net.name} puts out numbers of {str(F.dtype).removeprefix('torch.')}, which have no gradients. Give the "
            "net that puts out what its loss takes, before labels are made of it."
        )
    return F


def find_engine(net: Net, own: OwnRows, state: State) -> None:
    """Choose the engine: the first that agrees with backward passes of single rows.

    Raises
    ------
    TypeError
        If none of those asked for does, or if a row's outputs depend on the rows that go through with it.
    """
    # Under other settings torch would compile anew, which takes seconds: there rounding is borne with.
    exact = state.engine != "compiled"
    tolerance = tolerance_of(net) if exact or net.device.type == "cpu" else LOOSE
    theta, batch, v = own.theta, own.batch, net.parts(own.v)
    with net.still(exact=exact):
        with torch.no_grad():
            F = net.raw(theta, batch)
        if not bool(torch.isfinite(F).all()):
            return  # what is wrong with the rows, or the parameters, is said where their outputs are used
        along, alone, sizes = [], [], []
        products = torch.empty_like(own.v)
        for g, outputs in _alone(own):
            products = torch.mul(g, own.v, out=products)
            along.append(products.sum())
            sizes.append(torch.linalg.vector_norm(products))
            alone.append(outputs)
        apart = torch.stack(alone)
        largest = torch.maximum(F.abs(), apart.abs()).amax(dim=1)
        if bool(((F - apart).abs().amax(dim=1) > tolerance * largest).any()):
            raise TypeError(_DEPENDENT.format(net.name))
        wanted = torch.stack(along)
        size = float(torch.stack([*sizes, wanted.abs().max()]).max())
        names = list(ENGINES) if state.engine == "auto" else [state.engine]
        for name in names:
            state.refused.pop(name, None)
            try:
                found, T = engine_of(name)(net, theta, v, batch)
                error = float(((own.D * T).sum(dim=1) - wanted).abs().max())
                error = max(error, 0.0 if torch.allclose(found, F, rtol=tolerance, atol=tolerance) else float("inf"))
                if error <= tolerance * size:
                    state.engine, state.engine_found = name, True
                    break
                state.refused[name] = f"off by {error:.3g} where the values are about {size:.3g}"
            except Exception as error:  # a user's module may raise anything where a derivative is missing
                state.refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    refused = "; ".join(f"{name}: {state.refused[name]}" for name in names if name in state.refused)
    if not state.engine_found:
        raise TypeError(
            f"{net.name} cannot be differentiated by {' or '.join(repr(name) for name in names)} ({refused}). "
            + ("Leave compile=True out." if state.engine == "compiled" else "Leave engine at 'auto'.")
        )
    if len(names) > 1 and state.engine == names[-1]:
        warnings.warn(
            f"{net.name} is differentiated row by row, each of its outputs by a backward pass of its own, which takes "
            f"long: the quicker ways fail or are wrong for it ({refused}). parameters=... may leave out what they "
            "cannot do.",
            EfficiencyWarning,
            stacklevel=2,
        )


def _alone(own: OwnRows) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    try:
        yield from own
    except ValueError as error:  # as batch normalisation says that one row is too few
        raise TypeError(_DEPENDENT.format(own.net.name)) from error


def can_vmap(net: Net, own: OwnRows, *, jacobian: bool = False) -> bool:
    """Whether per-row gradients (or Jacobians) by vmap are those of the rows' own backward passes."""
    errors, sizes = [0.0], [0.0]
    with net.still(exact=True):
        try:
            by_vmap = (_contracted if jacobian else _one_by_one)(net, own.theta, own.batch, own.D)
            for found, (wanted, _) in zip(by_vmap, own, strict=True):
                sizes.append(float(wanted.abs().max()))
                errors.append(float((flattened(found, own.theta) - wanted).abs().max()))
        except Exception:  # whatever vmap meets in a user's module: it is not for this one
            return False
    return bool(np.max(errors) <= tolerance_of(net) * np.max(sizes))  # np.max, unlike max, keeps a NaN


def can_pull_duals(net: Net, own: OwnRows, state: State) -> bool:
    """Whether outputs from a pass on dual numbers that records a graph pull back as those of a plain pass do.

    Not asked for recurrent nets, where recording costs more than the pass that is saved.
    """
    if state.engine not in GRAPHED or net.recurrent:
        return False
    batch, v = own.batch, net.parts(own.v)
    with net.still(exact=True), torch.enable_grad():
        plain, leaves = as_leaves(own.theta), as_leaves(own.theta)
        wanted = torch.autograd.grad(net.raw(plain, batch), list(plain.values()), own.D, allow_unused=True)
        try:
            _, along = engine_of(state.engine)(net, own.theta, v, batch)
            F, T = forward_graph(net, leaves, v, batch, state.engine)
            found = torch.autograd.grad(F, list(leaves.values()), own.D, allow_unused=True)
        except Exception:  # whatever torch meets in a user's module: two passes are always right
            return False
    pairs = [(T, along), *zip(found, wanted, strict=True)]
    if any((g is None) != (h is None) for g, h in pairs):
        return False
    return all(
        torch.allclose(g, h, rtol=0, atol=tolerance_of(net) * float(h.abs().max())) for g, h in pairs if g is not None
    )


def _one_by_one(net: Net, theta: Tensors, batch: Any, D: torch.Tensor) -> Iterator[Tensors]:
    for part in row_gradients(net, theta, batch, D, list(theta), vmappable=True):
        n = len(next(iter(part.values())))
        yield from ({name: g[i] for name, g in part.items()} for i in range(n))


def _contracted(net: Net, theta: Tensors, batch: Any, D: torch.Tensor) -> Iterator[Tensors]:
    done = 0
    for part in jacobians(net, theta, batch):
        n = len(next(iter(part.values())))
        for i in range(n):
            yield {name: D[done + i] @ J[i].reshape(J.shape[1], -1) for name, J in part.items()}
        done += n
