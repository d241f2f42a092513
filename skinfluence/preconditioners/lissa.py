"""P = (H + damping I)^-1 by LiSSA: a truncated Neumann series, one product with H a step."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_scalar

from ..models import LinearModel
from ..operators import Reduction, Rows, TrainingProblem, warn_unless_minimum
from ._base import Solve, on_free
from ._series import Series
from ._spectrum import extreme_eigenvalues
from .cg import check_damping, net_damping, warn_of_damping

Times = Callable[[np.ndarray], np.ndarray]
"""``V -> H V`` on ``(p, m)``."""

_PROBED_BATCHES, _PROBED_ROWS = 10, 512
_UNSOLVED, _UNSOLVED_BY_BATCHES = 0.1, 0.5
_REMEDY = "Use a larger damping or a larger scale, or leave both at 'auto'"


class LiSSAInverse(BaseEstimator):
    """Inverse Hessian products by the recursion of LiSSA, without forming the Hessian.

    ``h <- v + (1 - damping/scale) h - H h / scale``, from ``h = v``; then ``h / scale`` tends to ``(H + damping I)^-1
    v`` if the eigenvalues of ``H + damping I`` lie between zero and ``2 scale``.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of H, in H's own unit. "auto" adds nothing for linear models: to stop after ``depth``
        steps damps already, it shrinks the answer along directions of curvature below about ``scale / depth``. For
        nets, whose curvature is zero in most directions, it adds a tenth of the mean eigenvalue, or more where that is
        what brings the residual to 0.1 in ``depth`` steps. Negative curvature adds 1.1 times its size, and warns.
    scale : "auto" or float, default="auto"
        What H is divided by. "auto" is the top eigenvalue of H, by Lanczos's iteration, plus the damping; with
        mini-batches the greatest top eigenvalue of some of them, if that is more.
    depth : int, default=1000
        Most steps.
    tol : float, default=1e-4
        Relative residual at which the recursion stops; with mini-batches it always goes to ``depth``.
    batch_size : int, default=None
        Rows whose Hessian a step uses; None is all.
    n_repeats : int, default=1
        Independent runs over mini-batches that are averaged.
    random_state : int, RandomState instance or None, default=None
        Seed of the mini-batches.

    Raises
    ------
    TypeError
        If the training loss has no second derivative.
    ValueError
        If a parameter is out of range, ``H + damping I`` is seen not to be positive, or the recursion diverges.

    Notes
    -----
    Warns (ConvergenceWarning) where the residual stays above 0.1 (mini-batches: 0.5). The report holds ``damping``,
    ``scale``, ``top_eigenvalue``, ``depth`` (steps made) and ``residual``: relative, of the whole Hessian, the worst of
    what was solved for.

    Many right-hand sides at once are served by the p products that make H, where those are a tenth of what the
    recursion may take and H fits into a quarter of ``sklearn.get_config()["working_memory"]``; where they are p and
    more, by its eigenvectors too, in which the sum of any number of steps is that of a geometric series.

    Source: Agarwal, Bullins and Hazan, "Second-Order Stochastic Optimization for Machine Learning in Linear Time", JMLR
    2017; Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017, section 3.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import LiSSAInverse
    >>> method = GradientMethod(preconditioner=LiSSAInverse(damping=0.01))
    """

    def __init__(
        self,
        damping: float | str = "auto",
        scale: float | str = "auto",
        depth: int = 1000,
        tol: float = 1e-4,
        batch_size: int | None = None,
        n_repeats: int = 1,
        random_state: Any = None,
    ) -> None:
        self.damping = damping
        self.scale = scale
        self.depth = depth
        self.tol = tol
        self.batch_size = batch_size
        self.n_repeats = n_repeats
        self.random_state = random_state

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        problem.require_hessian("lissa")
        warn_unless_minimum(problem, params)
        self._check()
        free = problem.free
        reduced = problem.reduced(params)
        H = problem.hessian(reduced)
        times = _times(H, free)
        n_free = int(free.sum())
        if n_free == 0:
            return on_free(free, np.copy), {"solver": "lissa", "damping": check_damping(self.damping)}
        batched = self.batch_size is not None and self.batch_size < len(problem.rows)
        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=self.n_repeats + 1)
        top, bottom = extreme_eigenvalues(times, n_free)
        curvature = max(abs(top), abs(bottom))
        if batched:
            n_probed = max(_PROBED_BATCHES, _PROBED_ROWS // int(self.batch_size or 1))
            probed = itertools.islice(self._batches(problem, reduced, int(seeds[-1])), n_probed)
            ends = [extreme_eigenvalues(batch, n_free) for batch in probed]
            curvature = max(curvature, float(np.abs(ends).max()))
        damping, scale = self._damping_and_scale(problem, H, curvature, bottom)
        report: dict[str, Any] = {
            "solver": "lissa",
            "damping": damping,
            "scale": scale,
            "top_eigenvalue": top,
            "depth": 0,
            "residual": 0.0,
        }
        hessian = _Hessian(times, n_free, self.depth)
        rounding = _rounding(problem) * curvature / scale

        def solve(g: np.ndarray) -> np.ndarray:
            V = g if g.ndim == 2 else g[:, None]
            if not np.isfinite(V).all():
                raise ValueError("LiSSA was given NaN or inf to solve for: a gradient is not finite.")
            if batched:
                runs = [
                    _over_batches(self._batches(problem, reduced, int(seed)), V, damping, scale, self.depth)
                    for seed in seeds[:-1]
                ]
                U = np.mean(runs, axis=0)
                steps, residual = self.depth, float(_relative(V - hessian.product(U) - damping * U, V).max(initial=0.0))
            else:
                series = hessian.series(V, damping, scale, rounding)
                if series is not None:
                    U, steps, residual = series.solve(V, self.depth, self.tol)
                else:
                    U, steps, residual = _over_all(hessian.product, V, damping, scale, self.depth, self.tol)
            report.update(depth=max(steps, report["depth"]), residual=max(residual, report["residual"]))
            if residual > max(_UNSOLVED_BY_BATCHES if batched else _UNSOLVED, self.tol):
                _warn_unsolved(steps, residual, batched)
            return U.reshape(g.shape)

        return on_free(free, solve), report

    def _check(self) -> None:
        check_damping(self.damping)
        if self.scale != "auto":
            if isinstance(self.scale, str):
                raise ValueError(f"scale must be 'auto' or a number > 0, got {self.scale!r}.")
            check_scalar(self.scale, "scale", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.depth, "depth", Integral, min_val=1)
        check_scalar(self.tol, "tol", Real, min_val=0, max_val=1, include_boundaries="neither")
        check_scalar(self.n_repeats, "n_repeats", Integral, min_val=1)
        if self.batch_size is not None:
            check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        elif self.n_repeats > 1:
            raise ValueError(
                f"n_repeats={self.n_repeats} averages runs over different mini-batches; with batch_size=None all runs "
                "are the same. Give a batch_size, or leave n_repeats at 1."
            )

    def _damping_and_scale(
        self, problem: TrainingProblem, H: LinearOperator, curvature: float, bottom: float
    ) -> tuple[float, float]:
        """``curvature`` bounds the eigenvalues that a step meets; ``bottom`` is an estimate of the Hessian's least."""
        rounding = _rounding(problem) * curvature
        negative = -bottom if bottom < -rounding else 0.0
        if self.damping != "auto":
            damping = check_damping(self.damping)
            if damping <= negative and negative > 0:
                raise ValueError(
                    f"H + {damping:g} I is not positive definite: its smallest eigenvalue is {damping - negative:.3g} "
                    "or less. Use a larger damping, or damping='auto'."
                )
        else:
            if negative > 0:
                warn_of_damping(1.1 * negative)
            damping = 1.1 * negative
            if not isinstance(problem.fitted.model, LinearModel):
                # Along a direction without curvature a step shrinks the residual by curvature / (curvature + damping).
                settling = curvature * (_UNSOLVED ** (-1.0 / self.depth) - 1.0)
                damping += max(settling, net_damping(H, problem.free))
        scale = curvature + damping if self.scale == "auto" else float(self.scale)
        if scale == 0.0:
            raise ValueError("The Hessian is zero: the training loss has no curvature anywhere. Give a damping.")
        return damping, scale

    def _batches(self, problem: TrainingProblem, reduced: Reduction, seed: int) -> Iterator[Times]:
        """Products with the Hessian of one mini-batch after the other, without end."""
        rng, n = check_random_state(seed), len(problem.rows)
        while True:
            # Each by itself: shuffled passes would tie a batch to those before it, and so bias the recursion.
            some = reduced.take(rng.randint(n, size=self.batch_size))
            yield _times(_batch(problem, some.rows).hessian(some), problem.free)


class _Hessian:
    """H by its products; by itself once so many columns are asked for at once that those are more work; and by its
    eigenvectors once p columns were.
    """

    def __init__(self, times: Times, p: int, depth: int) -> None:
        self.times, self.p, self.depth = times, p, depth
        self.made: np.ndarray | None = None
        self.columns = 0
        self.settled: Series | None = None
        self.grows = False

    def product(self, V: np.ndarray) -> np.ndarray:
        self._make(V.shape[1])
        return self.times(V) if self.made is None else self.made @ V

    def series(self, V: np.ndarray, damping: float, scale: float, rounding: float) -> Series | None:
        """What the recursion comes to, where it settles and is not quicker itself."""
        self.columns += V.shape[1]
        if self.settled is None and not self.grows and self.columns >= self.p:
            self._make(V.shape[1])
            if self.made is not None:
                found = Series(self.made, damping, scale, rounding)
                self.grows = not found.settles
                if found.settles:
                    self.settled, self.made = found, None
        return self.settled

    def _make(self, n_columns: int) -> None:
        fits = 8 * self.p**2 <= get_config()["working_memory"] * 2**20 / 4
        if self.made is None and n_columns > 1 and 10 * self.p <= n_columns * self.depth and fits:
            self.made = self.times(np.eye(self.p))


def _rounding(problem: TrainingProblem) -> float:
    """How far below zero, relative to the top, an eigenvalue may come out that is zero."""
    # 470 were seen, of a net that is certain of its rows. Along such a one a thousand steps grow by an eighth, no more.
    return 1000 * float(np.finfo(problem.rows.X.dtype).eps)


def _batch(problem: TrainingProblem, rows: Rows) -> TrainingProblem:
    """The problem on some of the rows, such that the Hessian of a random batch has the whole one as its mean."""
    batch = copy.copy(problem)
    batch.rows = rows
    batch.total_weight = problem.total_weight * len(rows) / len(problem.rows)  # what such a batch weighs on average
    return batch


def _times(H: LinearOperator, free: np.ndarray) -> Times:
    """Products with a Hessian on the free parameters."""
    if free.all():
        return H.matmat

    def times(V: np.ndarray) -> np.ndarray:
        padded = np.zeros((free.shape[0], V.shape[1]))
        padded[free] = V
        return H.matmat(padded)[free]

    return times


def _relative(R: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Norms of the columns of ``R`` relative to those of ``V``; zero where both are."""
    size = np.linalg.norm(V, axis=0)
    return np.linalg.norm(R, axis=0) / np.where(size > 0, size, 1.0)


def _over_all(
    times: Times, V: np.ndarray, damping: float, scale: float, depth: int, tol: float
) -> tuple[np.ndarray, int, float]:
    """The recursion on the whole Hessian: solutions ``(p, m)``, steps made, and the worst relative residual.

    A column stops when its own residual is small, so that it is solved alike whatever columns go with it.
    """
    solved = np.zeros_like(V)
    left = np.flatnonzero(np.linalg.norm(V, axis=0) > 0)
    h = v = V[:, left]
    worst, step, residual = 0.0, 0, np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, depth + 1 if len(left) else 1):
            new = v + (1 - damping / scale) * h - times(h) / scale
            # What a step changes is the residual of h / scale.
            residual = _relative(new - h, v)
            if not (residual < 10.0).all():
                raise ValueError(
                    f"LiSSA diverged after {step} steps with damping={damping:.3g} and scale={scale:.3g}. {_REMEDY}."
                )
            done = residual <= tol
            solved[:, left[done]] = new[:, done]
            worst = max(worst, float(residual[done].max(initial=0.0)))
            h, v, left, residual = new[:, ~done], v[:, ~done], left[~done], residual[~done]
            if len(left) == 0:
                break
    solved[:, left] = h
    return solved / scale, step, max(worst, float(residual.max(initial=0.0)))


def _over_batches(batches: Iterator[Times], V: np.ndarray, damping: float, scale: float, depth: int) -> np.ndarray:
    """The recursion with another mini-batch in each step."""
    h = V
    # A step that shrinks errors adds no more than v to h.
    size = np.maximum(np.linalg.norm(V, axis=0), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        for step, times in enumerate(itertools.islice(batches, depth), start=1):
            many = h.shape[1] > h.shape[0]
            product = times(np.eye(h.shape[0])) @ h if many else times(h)
            h = V + (1 - damping / scale) * h - product / scale
            if not (np.linalg.norm(h, axis=0) < 10 * (step + 1) * size).all():
                raise ValueError(
                    f"LiSSA diverged after {step} mini-batches with damping={damping:.3g} and scale={scale:.3g}. "
                    f"{_REMEDY}; or use larger batches."
                )
    return h / scale


def _warn_unsolved(steps: int, residual: float, batched: bool) -> None:
    remedy = "Use larger batches or more n_repeats" if batched else "Use more depth"
    warnings.warn(
        f"LiSSA stopped after {steps} steps at a relative residual of {residual:.2g}. {remedy}, or a larger damping.",
        ConvergenceWarning,
        stacklevel=4,
    )
