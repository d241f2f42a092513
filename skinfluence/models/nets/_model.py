"""A net behind the seam of `DifferentiableModel`: flat NumPy vectors outside, torch within."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from .._layers import LayerRows
from .._protocol import Cotangents, Reduced, TangentCotangents
from ..linear import LinearModel
from ._engines import Passes, along, forward_graph, jacobians, rows_within, written_out
from ._first_rows import ProbedNet, as_numpy
from ._ghost import layer_rows, squared_lengths
from ._head import head_of, inputs_of, linear_head
from ._memory import is_out_of_memory
from ._net import Structure, Tensors, as_leaves
from ._probe import N_PROBED, State, can_pull_duals, can_vmap, tolerance_of
from ._row_gradients import row_gradients_by_loop, squared_norms
from ._rows import NetRows
from ._states import state_vector

_NO_SECOND = "torch has no second derivative of {}: {}. Use curvature='gauss_newton', which needs none."


class NetModel(ProbedNet):
    """Raw outputs of a torch module as a function of a flat vector of its chosen parameters.

    Outputs and their derivatives along a direction come from one forward pass on dual numbers where torch has its
    derivatives, and otherwise from the first of `ENGINES` that agrees with the rows' own backward passes; ``engine``
    names it. Rows go through in blocks of a size found from the widest activation, halved when the device runs out of
    memory.
    """

    @property
    def n_outputs(self) -> int:
        """K; 0 before the first rows were seen."""
        return self.net.n_outputs

    @property
    def blocks(self) -> dict[str, slice]:
        return self.net.blocks()

    @property
    def linear(self) -> bool:
        """A net's parameters may be as many as memory holds a few times, and its derivatives come with its outputs."""
        return False

    @property
    def engine(self) -> str:
        """How derivatives along a direction are taken; "auto" before the first rows were seen."""
        return self.state.engine

    @property
    def structure(self) -> Structure:
        assert self.net.structure is not None
        return self.net.structure

    def vector_of(self, state: Any) -> np.ndarray:
        """The chosen parameters ``(p,)`` out of a state dict, or of a file that one was saved to."""
        return state_vector(self.net, state)

    def at(self, params: np.ndarray) -> NetModel:
        return NetModel(self.net, params, self.state)

    # --- what every model has -----------------------------------------------------------------------------------------

    def outputs(self, X: Any) -> np.ndarray:
        return self.outputs_and_jvps(X, [self._params], [])[0][0]

    def jvp(self, X: Any, v: np.ndarray) -> np.ndarray:
        return self.outputs_and_jvps(X, [self._params], [v])[1][0]

    def jvps(self, X: Any, directions: np.ndarray) -> list[np.ndarray]:
        return [self.jvp(X, v) for v in directions]

    def vjp(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        return self.pull_back(X, [self._params], lambda F, at, member: cotangents[at])[0]

    def outputs_and_jvps(
        self, X: Any, params: Sequence[np.ndarray], directions: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        rows = self.rows(X)
        if directions:
            self.probe(rows)
        Fs, Ts = [], []
        # Members one after the other: a copy of the parameters in flight, made once for all rows.
        for m, member in enumerate(params):
            v = self.net.unflat(directions[m]) if m < len(directions) else None
            F = np.empty((len(rows), self.n_outputs), dtype=rows.dtype)
            T = None if v is None else np.full_like(F, np.nan)
            with self.net.still(), self._passing(self._at(member), v) as passes:
                for at, (f, t) in self._over_blocks(rows, passes):
                    F[at] = as_numpy(f)
                    if T is not None and t is not None:
                        T[at] = as_numpy(t)
            Fs.append(F)
            if T is not None:
                Ts.append(T)
        return Fs, Ts

    def _passing(self, theta: Tensors, v: Tensors | None) -> AbstractContextManager[Passes]:
        """What gives outputs of batches and, if there is a direction and an engine, their derivatives along it."""
        if v is not None and self.state.engine_found:
            return along(self.state.engine, self.net, theta, v)

        def plain(batch: Any, at: slice) -> tuple[torch.Tensor, None]:
            with torch.no_grad():
                return self.net.raw(theta, batch), None

        return nullcontext(plain)

    def pull_back(self, X: Any, params: Sequence[np.ndarray], cotangents: Cotangents) -> list[np.ndarray]:
        rows = self.rows(X)
        totals = []
        for m, member in enumerate(params):
            leaves = as_leaves(self._at(member))

            def work(batch: Any, at: slice, leaves: Tensors = leaves, m: int = m) -> Sequence[torch.Tensor | None]:
                F = self.net.raw(leaves, batch)
                D = self._cotangents(F, cotangents, at, m)
                return torch.autograd.grad(F, list(leaves.values()), D, allow_unused=True)

            totals.append(self._summed(rows, work))
        return totals

    def push_and_pull(
        self, X: Any, v: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        rows = self.rows(X)
        self.probe(rows)
        if self.state.one_pass is None and self.state.engine_found:
            self.state.one_pass = can_pull_duals(self.net, self._own(rows), self.state)
        if self.state.one_pass:
            try:
                return self._push_and_pull(rows, v, cotangents)
            except RuntimeError as error:  # rows may go another way through the module than the few that were probed
                if is_out_of_memory(error):
                    raise
                self.state.one_pass = False
        (F,), (T,) = self.outputs_and_jvps(rows, [self._params], [v])
        return self.vjp(rows, cotangents(F, T, slice(0, len(rows))))

    def push_and_pull_each(
        self, X: Any, vs: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        rows, out = self.rows(X), np.empty(vs.shape)
        for j, v in enumerate(vs):
            out[j] = self.push_and_pull(rows, v, cotangents, F)
        return out

    def _push_and_pull(self, rows: NetRows, v: np.ndarray, cotangents: TangentCotangents) -> np.ndarray:
        leaves, direction = as_leaves(self.theta), self.net.unflat(v)

        def work(batch: Any, at: slice) -> Sequence[torch.Tensor | None]:
            F, T = forward_graph(self.net, leaves, direction, batch, self.state.engine)
            along = as_numpy(T)
            D = self._cotangents(F, lambda outputs, part, member: cotangents(outputs, along, part), at, 0)
            return torch.autograd.grad(F, list(leaves.values()), D, allow_unused=True)

        return self._summed(rows, work)

    def squared_row_norms(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> np.ndarray:
        # Parameters that are not free, the rows of embeddings that stand for padding, have no gradients.
        rows = self.rows(X)
        out = np.zeros(len(rows))
        theta = self.theta
        with self.net.still():
            plan, vmappable, most = self._plan(rows)

            def work(batch: Any, at: slice) -> np.ndarray:
                layers = layer_rows(self.net, theta, batch, self._pull(cotangents, at), plan, vmappable)
                if layers is None:  # the module goes another way with these rows than with the first
                    return squared_norms(self.net, theta, batch, self._pull(cotangents, at), self._vmappable(rows))
                return squared_lengths(layers)

            with written_out(self.net, rules=False):
                for at, found in self._over_blocks(rows, work, most):
                    out[at] = found
        return out

    def input_gradient(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        rows = self.rows(X)
        theta = self.theta

        def work(batch: Any, at: slice) -> torch.Tensor:
            if not isinstance(batch, torch.Tensor) or not batch.is_floating_point() or batch.dim() != 2:
                raise TypeError(
                    f"Rows can be moved where they are one table of real numbers; {self.net.name} takes rows "
                    f"{rows.described()}."
                )
            x = batch.detach().requires_grad_()
            F = self.net.raw(theta, x)
            (g,) = torch.autograd.grad(F, x, self._cotangents(F, lambda F, at, m: cotangents[at], at, 0))
            return g

        return np.concatenate([as_numpy(g) for _, g in self._over_blocks(rows, work)])

    # --- what some methods need ---------------------------------------------------------------------------------------

    def second_order(self, X: Any, cotangents: np.ndarray, v: np.ndarray) -> np.ndarray:
        """``sum_ik cotangents[i, k] (d²F_ik / dparams²) v``, ``(p,)``: what the Hessian has beyond Gauss-Newton.

        Raises
        ------
        TypeError
            If torch has no second derivative of the module, or one that is not symmetric.
        """
        rows = self.rows(X)
        if not self.state.twice:
            few = self._few(rows)
            rng = np.random.RandomState(0)
            D, (u, w) = rng.standard_normal((len(few), self.n_outputs)), rng.standard_normal((2, self.net.n_params))
            left, right = u @ self._second_order(few, D, w), w @ self._second_order(few, D, u)
            size = max(float(np.linalg.norm(self._second_order(few, D, w)) * np.linalg.norm(u)), 1e-12)
            if abs(left - right) > tolerance_of(self.net) * size:
                raise TypeError(_NO_SECOND.format(self.net.name, "what it gives is not symmetric"))
            self.state.twice = True
        return self._second_order(rows, cotangents, v)

    def _second_order(self, rows: NetRows, cotangents: np.ndarray, v: np.ndarray) -> np.ndarray:
        direction = self.net.unflat(v)
        leaves = as_leaves(self.theta)
        wanted = list(leaves.values())

        def work(batch: Any, at: slice) -> Sequence[torch.Tensor | None]:
            with written_out(self.net):
                F = self.net.raw(leaves, batch)
                D = self._cotangents(F, lambda F, at, m: cotangents[at], at, 0)
                first = torch.autograd.grad(F, wanted, D, create_graph=True, allow_unused=True)
                pairs = [(g, direction[name]) for name, g in zip(leaves, first, strict=True) if g is not None]
                along = torch.stack([(g * d).sum() for g, d in pairs]).sum()
                if not along.requires_grad:  # a linear module: its outputs have no second derivative
                    return [None] * len(wanted)
                return torch.autograd.grad(along, wanted, allow_unused=True)

        try:
            return self._summed(rows, work)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise TypeError(_NO_SECOND.format(self.net.name, error)) from error

    def reduced(self, X: Any, most_bytes: int) -> Reduced | None:
        """The last layer alone and, as its rows, what goes into it."""
        rows, state = self.rows(X), self.state
        if not state.head_sought:
            head, (engine, block_rows) = head_of(self.net), state.asked
            if head is not None:
                state.head = head, NetModel(head.net, state=State(engine=engine, block_rows=block_rows))
            state.head_sought = True
        if state.head is None:
            return None
        head, model = state.head
        leaves, kept = as_leaves(self.theta), np.empty(0)
        for at, x in self._over_blocks(rows, lambda batch, at: inputs_of(head, self.net, leaves, batch)):
            if x is None or (at.start and x.shape[1:] != kept.shape[1:]):
                return None
            part = as_numpy(x)
            if not np.isfinite(part).all():  # who asks the whole net is told of it better
                return None
            if at.start == 0:
                if len(rows) * part[:1].nbytes > most_bytes:
                    return None
                kept = np.empty((len(rows), *part.shape[1:]), dtype=part.dtype)
            kept[at] = part
        reduced = model.at(self._params)
        linear = linear_head(head, self._params, kept) if state.asked[0] == "auto" else None
        if linear is not None and _are_alike(reduced, linear[0], kept[:N_PROBED]):
            return Reduced(linear[0], kept, linear[1])
        if head.is_whole_net:
            state.head = None
            return None
        return Reduced(reduced, reduced.rows(kept))

    def jacobians(self, X: Any) -> Iterator[np.ndarray]:
        """Jacobians ``(b, K, p)`` of consecutive rows, a few at a time."""
        rows, theta = self.rows(X), self.theta
        if self.state.jacobians_by_vmap is None:
            self.state.jacobians_by_vmap = can_vmap(self.net, self._own(rows), jacobian=True)

        def work(batch: Any, at: slice) -> np.ndarray:
            if self.state.jacobians_by_vmap:
                (J,) = jacobians(self.net, theta, batch)
                flat = [as_numpy(J[name].reshape(*J[name].shape[:2], -1)) for name in theta]
                return np.concatenate(flat, axis=2).astype(np.float64)
            columns = []
            for k in range(self.n_outputs):
                D = torch.zeros((at.stop - at.start, self.n_outputs), dtype=self.net.dtype, device=self.net.device)
                D[:, k] = 1
                loop = row_gradients_by_loop(self.net, theta, batch, D, list(theta))
                columns.append(np.stack([self.net.flat(row) for row, _ in loop]))
            return np.stack(columns, axis=1)

        for _, J in self._over_blocks(rows, work, rows_within(8 * self.n_outputs * self.net.n_params)):
            yield J

    @property
    def widest_layer(self) -> int:
        """Nothing beside the blocks that are cut here."""
        return 0

    def layers(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> Iterator[tuple[slice, list[LayerRows]]]:
        """The gradients of ``sum_k D_ik F_ik`` of blocks of rows, layer by layer; what is not ``free`` has none.

        Raises
        ------
        TypeError
            If the way through the module depends on the data, so that there are no layers to speak of.
        """
        rows, theta = self.rows(X), self.theta
        plan, vmappable, most = self._plan(rows)

        def work(batch: Any, at: slice) -> list[LayerRows]:
            found = layer_rows(self.net, theta, batch, self._pull(cotangents, at), plan, vmappable)
            if found is None:
                raise TypeError(
                    f"{self.net.name} goes another way with these rows than with the first ones, so that it has no "
                    "layers to go by. Use a method that needs none, such as 'ip'."
                )
            return found

        yield from self._over_blocks(rows, work, most)

    @property
    def uncovered(self) -> list[str]:
        """Parameters whose gradients are had row by row alone; known once rows were probed."""
        if self.state.few is None:
            return []
        plan, _, _ = self._plan(self.state.few)
        return [name.removeprefix("inner.") for name in plan.rest]


def _are_alike(net: NetModel, linear: LinearModel, X: np.ndarray) -> bool:
    """Whether a layer puts out what a linear model does."""
    F, G = net.outputs(X), linear.outputs(X)
    return bool(np.abs(F - G).max(initial=0.0) <= tolerance_of(net.net) * np.abs(F).max(initial=0.0))
