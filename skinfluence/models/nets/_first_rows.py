"""A net at some parameters, what the first rows that it sees tell of it, and its blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import torch
from sklearn import get_config

from .._protocol import Cotangents
from ._ghost import Plan, make_plan
from ._memory import is_out_of_memory
from ._net import Net, Tensors
from ._probe import MOST_ROWS, N_PROBED, State, can_vmap, find_engine, look_at, tolerance_of
from ._row_gradients import OwnRows
from ._rows import NetRows, spread


class ProbedNet:
    """A net at some parameters: what was found out of it on its first rows, and its passes over blocks of rows."""

    def __init__(self, net: Net, params: np.ndarray | None = None, state: State | None = None) -> None:
        self.net = net
        self.state = State() if state is None else state
        if params is None:
            params, self.theta = net.flat(net.theta), net.theta
        params = np.array(params, dtype=np.float64).reshape(-1)
        if params.shape != (net.n_params,):
            raise ValueError(f"params must have {net.n_params} entries, got {params.shape[0]}.")
        params.flags.writeable = False
        self._params = params

    @property
    def params(self) -> np.ndarray:
        return self._params

    @cached_property
    def theta(self) -> Tensors:
        """The same as tensors, by name."""
        return self.net.unflat(self._params)

    def _at(self, params: np.ndarray) -> Tensors:
        return self.theta if params is self._params else self.net.unflat(params)

    # --- first rows ---------------------------------------------------------------------------------------------------

    def rows(self, X: Any) -> NetRows:
        """Rows as blocks of the net's input; the first that are seen show what it puts out."""
        rows = X if isinstance(X, NetRows) else NetRows.of(X, self.net.numpy_dtype)
        if self.net.structure is None:
            look_at(self.net, self.theta, rows, self.state)
            self.state.form = rows.form
        return rows

    def probe(self, rows: NetRows) -> None:
        """Choose the engine, on some of ``rows``, unless that was done."""
        if not self.state.engine_found:
            self.state.few, self.state.own = rows[spread(len(rows), N_PROBED)], None
            find_engine(self.net, self._own(rows), self.state)

    def _few(self, rows: NetRows) -> NetRows:
        """The rows that things are tried on: of the first that were seen."""
        if self.state.few is None:
            self.state.few = rows[spread(len(rows), N_PROBED)]
        return self.state.few

    def _own(self, rows: NetRows) -> OwnRows:
        """What their own backward passes say."""
        few, own = self._few(rows), self.state.own
        if own is None or not np.array_equal(own.params, self._params):
            with self.net.still():
                own = OwnRows(self.net, self._params, self.theta, few)
            self.state.own = own if own.small else None
        return own

    def _vmappable(self, rows: NetRows) -> bool:
        if self.state.vmappable is None:
            self.state.vmappable = can_vmap(self.net, self._own(rows))
        return self.state.vmappable

    def _plan(self, rows: NetRows) -> tuple[Plan, bool, int | None]:
        """How layers are read, whether the rest goes by vmap, and how many rows may go at once for its sake."""
        if self.state.plan is None:
            with self.net.still(exact=True):
                self.state.plan = make_plan(self.net, self._own(rows), tolerance_of(self.net))
        plan = self.state.plan
        if not plan.rest:
            return plan, True, None
        numbers = sum(self.net.theta[name].numel() for name in plan.rest)
        budget = get_config()["working_memory"] * 2**20 / 4
        return plan, self._vmappable(rows), max(int(budget / (16 * max(numbers, 1))), 1)

    # --- within -------------------------------------------------------------------------------------------------------

    def _pull(self, cotangents: Cotangents, at: slice) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda F: self._cotangents(F, cotangents, at, 0)

    def _cotangents(self, F: torch.Tensor, cotangents: Cotangents, at: slice, member: int) -> torch.Tensor:
        D = np.asarray(cotangents(as_numpy(F), at, member))
        return torch.from_numpy(np.require(D, requirements=["C", "W"])).to(F.dtype).to(F.device)

    def _summed(self, rows: NetRows, work: Callable[[Any, slice], Sequence[torch.Tensor | None]]) -> np.ndarray:
        """The sum over blocks of tensors in the parameters' shapes, as a vector ``(p,)``; added up in float64."""
        wide = torch.float32 if self.net.device.type == "mps" else torch.float64
        summed: Tensors = {}
        widened: set[str] = set()
        with self.net.still():
            for _, parts in self._over_blocks(rows, work):
                for name, part in zip(self.net.theta, parts, strict=True):
                    if part is None:
                        continue
                    if name in widened:
                        summed[name] += part
                    elif name in summed:
                        summed[name] = summed[name].to(wide) + part
                        widened.add(name)
                    else:
                        summed[name] = part
        return self.net.flat(summed)

    def _over_blocks(
        self, rows: NetRows, work: Callable[[Any, slice], Any], most: int | None = None
    ) -> Iterator[tuple[slice, Any]]:
        """``work(batch, rows)`` over blocks; out of memory halves the block, and the work goes on."""
        start = 0
        while start < len(rows):
            size = min(self.state.block_rows or 1, most or MOST_ROWS)
            left = len(rows) - start
            if self.state.engine != "compiled":  # which fills blocks up to a power of two
                size = ceil(left / ceil(left / size))  # blocks of one size: as many, and the largest is smaller
            at = slice(start, start + min(size, left))
            try:
                with self.net.still(), torch.enable_grad():
                    result = work(rows[at].batch(self.net.device, self.net.cast), at)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                self.state.block_rows = size // 2
            else:
                yield at, result
                start = at.stop
                continue
            if self.net.device.type == "cuda":  # here, where the error no longer holds what was computed
                torch.cuda.empty_cache()


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Its values on the host, in float64 if it is in that and in float32 otherwise: NumPy has no bfloat16."""
    tensor = tensor.detach()
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    found: np.ndarray = tensor.cpu().numpy()
    return found
