"""The seam between methods and model families."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ._layers import LayerRows

Cotangents = Callable[[np.ndarray, slice, int], np.ndarray]
"""``(F, rows, member) -> (n, K)``: derivatives in the raw outputs ``F`` of the rows in a slice, at one of several
parameter vectors.
"""

TangentCotangents = Callable[[np.ndarray, np.ndarray, slice], np.ndarray]
"""``(F, T, rows) -> (n, K)``: the same of the outputs and their derivatives ``T`` along a direction."""


class DifferentiableModel(Protocol):
    """A differentiable map from rows and flat parameters to raw outputs. It knows neither loss nor objective.

    ``n_params`` is p, ``n_outputs`` is K; parameter vectors are flat arrays ``(p,)``, outputs and cotangents ``(n,
    K)``.
    """

    @property
    def params(self) -> np.ndarray:
        """The parameters ``(p,)``."""

    @property
    def n_outputs(self) -> int: ...

    @property
    def linear(self) -> bool:
        """Whether outputs are linear in the parameters: then several parameter vectors share a pass over X, and outputs
        that are known spare work.
        """

    @property
    def engine(self) -> str:
        """How derivatives are taken, for reports."""

    @property
    def blocks(self) -> dict[str, slice]:
        """Named slices of the parameter vector, one for each layer."""

    def at(self, params: np.ndarray) -> DifferentiableModel:
        """The same model at other parameters."""

    def outputs(self, X: Any) -> np.ndarray:
        """Raw outputs ``(n, K)``."""

    def jvp(self, X: Any, v: np.ndarray) -> np.ndarray:
        """Derivative of the outputs along ``v``, ``(n, K)``."""

    def jvps(self, X: Any, directions: np.ndarray) -> list[np.ndarray]:
        """`jvp` along each of ``directions (m, p)``."""

    def vjp(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        """``sum_i sum_k cotangents[i, k] dF_ik / dparams``, ``(p,)`` in float64."""

    def outputs_and_jvps(
        self, X: Any, params: Sequence[np.ndarray], directions: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outputs at each of ``params`` and the derivatives there along the direction of the same index, in one pass
        over ``X``.
        """

    def pull_back(self, X: Any, params: Sequence[np.ndarray], cotangents: Cotangents) -> list[np.ndarray]:
        """`vjp` at each of ``params`` of cotangents made from the outputs there, in one pass over ``X``."""

    def push_and_pull(
        self, X: Any, v: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        """`vjp` of cotangents made from the outputs and their `jvp` along ``v``: with ``A T`` for these, the product of
        ``J^T A J`` and ``v``. ``F`` are the outputs, if they are known.
        """

    def squared_row_norms(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> np.ndarray:
        """Squared norms ``(n,)`` of ``sum_k D_ik dF_ik / dparams`` over the parameters marked ``free``, with D from
        ``cotangents``.
        """

    def push_and_pull_each(
        self, X: Any, vs: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        """`push_and_pull` along each of ``vs (m, p)``: ``(m, p)``."""

    @property
    def widest_layer(self) -> int:
        """Numbers a row takes where its gradient is handled layer by layer, beside what the model cuts itself."""

    def layers(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> Iterator[tuple[slice, list[LayerRows]]]:
        """The gradients of ``sum_k D_ik F_ik`` of blocks of rows, layer by layer, in the parameters marked ``free``."""

    def input_gradient(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        """``sum_k cotangents[i, k] dF_ik / dx_i`` for each row, a dense ``(n, d)`` whatever ``X`` is."""

    def second_order(self, X: Any, cotangents: np.ndarray, v: np.ndarray) -> np.ndarray:
        """``sum_ik cotangents[i, k] (d²F_ik / dparams²) v``, ``(p,)``: what a Hessian has beyond Gauss-Newton."""

    def reduced(self, X: Any, most_bytes: int) -> Reduced | None:
        """A model of the same outputs that takes less work, with rows of no more than so many bytes in the place of
        ``X``; None where there is none.
        """


@dataclass(frozen=True)
class Reduced:
    """A model that stands for another on the rows ``X`` of its own.

    Its parameters are ``params[order]`` of the other's, all of them in another order; None where they are the same.
    """

    model: DifferentiableModel
    X: Any
    order: np.ndarray | None = None
