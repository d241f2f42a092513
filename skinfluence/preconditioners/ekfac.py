"""P = (H + damping I)^-1 by EKFAC: Kronecker factors for each layer, their eigenvalues corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar

from ..models import LinearModel
from ..models._layers import Layer, LayerRows, eigenvectors, to_numpy
from ..operators import TrainingProblem, warn_unless_minimum
from ._base import Solve, by_columns, on_free, require_room
from ._passes import LayerPasses
from .datainf import shares


class EKFACInverse(BaseEstimator):
    """The inverse of the Gauss-Newton matrix, block-diagonal over layers, in a Kronecker product's eigenvectors.

    In a first pass over the rows the factors ``E[a a^T]`` of a layer's inputs and ``E[δ δ^T]`` of the gradients at its
    outputs are summed, and decomposed in float64; in a second pass the gradients' mean squares along the products of
    their eigenvectors are: those are the eigenvalues. Layers whose rows' gradients are had directly (normalisations,
    depthwise convolutions) have a diagonal in their place, embeddings the diagonal of their indices.

    Parameters
    ----------
    damping : float, default=0.1
        Added to a layer's eigenvalues: this times their mean. The penalty's L2 is added besides.
    labels : {"sampled", "true"}, default="sampled"
        The labels whose gradients are squared: drawn from the model's predictions, which makes it the Gauss-Newton
        matrix, or those of the rows (the empirical Fisher matrix).
    uncovered : {"raise", "diagonal", "leave_out"}, default="raise"
        What becomes of parameters of a net in layers of no known kind: raise and name them, take the diagonal of their
        per-row gradients, or leave them out.
    random_state : int, RandomState instance or None, default=None
        Seed of the labels.

    Raises
    ------
    ValueError
        If a parameter is out of range, or a linear model's factor of inputs, a float64 matrix of as many rows and
        columns as features and intercept, takes more than ``sklearn.get_config()["working_memory"]``; a few times as
        much is used while it is decomposed.

    Notes
    -----
    A sparse X stays sparse; its rows along the eigenvectors, which are dense, are made a block at a time. A CSC matrix
    is converted to CSR for that, once.

    A row's label is drawn by its place: with ``labels="sampled"`` the same rows in another order have other draws, and
    scores that differ as those of another seed do, whatever the blocks and the number of jobs. ``labels="true"`` draws
    nothing, and does not depend on the order. (Losses that are sums over the outputs draw signs alone, which cancel
    where there is one output.)

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import EKFACInverse
    >>> GradientMethod(preconditioner=EKFACInverse(labels="true"))
    GradientMethod(preconditioner=EKFACInverse(labels='true'))
    """

    def __init__(
        self, damping: float = 0.1, labels: str = "sampled", uncovered: str = "raise", random_state: Any = None
    ) -> None:
        self.damping = damping
        self.labels = labels
        self.uncovered = uncovered
        self.random_state = random_state

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        factors, left_out = self.factors(problem, [params])
        warn_unless_minimum(problem, params)
        l2 = problem.penalty_scale * problem.fitted.penalty.l2
        damping = {name: self.damping * factor.mean_eigenvalue for name, factor in factors.items()}
        report = {"damping": damping, "left_out": sorted(left_out)}

        def solve(g: np.ndarray) -> np.ndarray:
            padded, out = np.zeros(len(problem.free)), np.zeros(len(problem.free))
            padded[problem.free] = g
            for name, factor in factors.items():
                shift = damping[name] + factor.layer.matrix(l2)
                factor.layer.add(factor.apply(factor.layer.matrix(padded), shift, inverse), out)
            return out[problem.free]

        return on_free(problem.free, by_columns(solve)), report

    def factors(self, problem: TrainingProblem, several: Sequence[np.ndarray]) -> tuple[dict[str, Factor], set[str]]:
        """The factors of each layer, averaged over parameter vectors, and the names of the layers left out."""
        left_out = self._check(problem)
        weight = shares(problem) / len(several)
        draw = self._cotangents(problem)
        factors: dict[str, Factor] = {}
        passes = [LayerPasses(problem, params, draw, share=len(several)) for params in several]

        def visit(take: Callable[[Factor, LayerRows, np.ndarray], None]) -> None:
            for each in passes:
                for at, layers in each:
                    for rows in layers:
                        if rows.layer.name not in left_out:
                            take(factors.setdefault(rows.layer.name, Factor(rows.layer)), rows, weight[at])

        visit(Factor.collect)
        for factor in factors.values():
            factor.decompose()
        visit(Factor.correct)
        return factors, left_out

    def _check(self, problem: TrainingProblem) -> set[str]:
        """The names of layers to leave out; raises at what is not covered unless told what to do."""
        problem.require_hessian("ekfac")
        if isinstance(problem.fitted.model, LinearModel):
            require_room(
                problem.fitted.model.width,
                f"EKFAC's factor of the inputs of {type(problem.fitted.estimator).__name__}",
                "Use a method that needs no such matrix, such as 'ip', 'ip_ensemble', 'datainf', 'cg' or 'lissa'",
            )
        check_scalar(self.damping, "damping", Real, min_val=0)
        if self.labels not in ("sampled", "true"):
            raise ValueError(f"labels must be 'sampled' or 'true', got {self.labels!r}.")
        if self.uncovered not in ("raise", "diagonal", "leave_out"):
            raise ValueError(f"uncovered must be 'raise', 'diagonal' or 'leave_out', got {self.uncovered!r}.")
        if self.labels == "sampled" and problem.loss.link is None:
            raise TypeError(
                f"labels='sampled' draws labels from the model's predictions, and from the loss of "
                f"{type(problem.fitted.estimator).__name__} it is not known what it predicts. Use labels='true'."
            )
        uncovered = list(getattr(problem.fitted.model, "uncovered", []))
        if uncovered and self.uncovered == "raise":
            raise TypeError(
                f"EKFAC has no factors for {uncovered}: layers of no kind that it knows (it knows linear and "
                "convolution layers, embeddings and normalisations). Choose other parameters by "
                "DifferentiableNet(parameters=...), or EKFAC(uncovered='diagonal') or 'leave_out'."
            )
        return set(uncovered) if self.uncovered == "leave_out" else set()

    def _cotangents(self, problem: TrainingProblem) -> Callable[[np.ndarray, slice], np.ndarray] | None:
        if self.labels == "true":
            return None
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        # A row's draw depends on the seed and its place alone: the same whatever the blocks, and in both passes.
        width = 1 if problem.loss.link == "softmax" else problem.fitted.model.n_outputs
        draws = np.random.RandomState(seed).random_sample((len(problem.rows), width))

        def sampled(F: np.ndarray, at: slice) -> np.ndarray:
            return pseudo_gradients(problem, F, problem.rows.y[at], draws[at])

        return sampled


def pseudo_gradients(problem: TrainingProblem, F: np.ndarray, y: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Gradients ``(n, K)`` in the outputs whose mean outer product is the loss's second derivative there.

    For the softmax those of labels drawn from it; for losses that are sums over the outputs the root of the curvature
    with random signs.
    """
    if problem.loss.link == "softmax":
        P = softmax(F, axis=1)
        labels = (np.cumsum(P, axis=1) < draws).sum(axis=1).clip(max=F.shape[1] - 1)
        P[np.arange(len(P)), labels] -= 1
        return P
    curvature = problem.loss.hessian_product(F, y, np.ones_like(F))
    return np.sqrt(np.maximum(curvature, 0)) * np.where(draws < 0.5, -1, 1).astype(F.dtype)


def inverse(spectrum: np.ndarray) -> np.ndarray:
    """``1 / spectrum``; where nothing curves and nothing damps, nothing moves."""
    return np.divide(1.0, spectrum, out=np.zeros_like(spectrum), where=spectrum > 0)


class Factor:
    """The curvature of one layer: eigenvectors of its Kronecker factors (None: the axes themselves) and the eigenvalues
    along their products.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.moments: list[Any] = [None, None]
        self.bases: list[np.ndarray | None] = [None, None]
        self.own: list[Any] | None = None
        self.squares = np.zeros(layer.shape)

    @property
    def mean_eigenvalue(self) -> float:
        return float(self.squares.mean())

    def collect(self, rows: LayerRows, weight: np.ndarray) -> None:
        """First pass: add to the factors."""
        for side, found in enumerate(rows.second_moments(weight)):
            if found is not None:
                own = self.moments[side]
                self.moments[side] = found if own is None else own + found

    def decompose(self) -> None:
        self.bases = [None if M is None else to_numpy(eigenvectors(M)) for M in self.moments]
        self.moments = [None, None]

    def correct(self, rows: LayerRows, weight: np.ndarray) -> None:
        """Second pass: add to the eigenvalues."""
        if self.own is None:
            self.own = [None if Q is None else rows.like(Q) for Q in self.bases]
        Q_A, Q_B = self.own
        self.squares += rows.rotated_squares(Q_A, Q_B, weight)

    def apply(self, V: np.ndarray, shift: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A function of ``H + shift``, given as one of its eigenvalues, times a matrix ``(b, a)``."""
        Q_A, Q_B = self.bases
        V = V if Q_A is None else V @ Q_A
        V = V if Q_B is None else Q_B.T @ V
        V = V * function(self.squares + shift)
        V = V if Q_B is None else Q_B @ V
        return V if Q_A is None else V @ Q_A.T
