"""Sampled Shapley values: what a row adds to random subsets of the others, by refits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar

from .._checkpoint import Checkpoint
from .._progress import progress
from ..objectives import BoundObjective
from ..operators import Rows, TrainingProblem
from ._game import RULES, Game
from ._refit import Refit, draw_seed, stand_in, warn_of_lost_checkpoints

# Between two looks at the standard errors; a constant, so that the answer does not depend on the number of jobs.
_PERMUTATIONS_A_ROUND = 16


class DataShapley(BaseEstimator):
    """The Shapley value of each row: what it takes off the objective on average, added to random subsets of the rest.

    Rows are added one by one in random orders, and the model is refitted after each; a row's value is the mean, over
    orders, of the fall of the objective when it comes. Rows that hurt have negative values.

    Values are in the objective's unit and share out what the training rows are worth: they add up to ``T(no rows) -
    T(all rows)``, exactly, however few orders are drawn. Both are in the report, as ``objective_empty`` and
    ``objective_all``.

    Parameters
    ----------
    n_permutations : int, default=100
        Random orders of the rows, at least 2; the most of them if there is a ``tol``. Each costs as many refits as
        there are rows, or fewer by ``truncation``.
    truncation : float in [0, 1), default=0.01
        An order is cut short where, five refits in a row, the objective is within this share of ``|T(no rows) - T(all
        rows)|`` of ``T(all rows)``: what is left to be had is then divided equally among the rows to come. 0 refits
        for every row.
    tol : float, default=None
        Stop as soon as the standard errors (their root mean square over rows) are at most ``tol`` times the standard
        deviation of the values; looked at every 16 orders. None draws all ``n_permutations``.
    min_rows : int, default=1
        The fewest rows, of each class if there are classes, that the estimator is fitted on. Estimators that split
        their rows (cross-validation, early stopping) need more than one.
    checkpoint_dir : str or path, default=None
        A folder where finished orders are kept: a run that was stopped, by Ctrl-C or a kill, goes on where it was when
        it is started again with the same data, parameters and ``random_state``. With a greater ``n_permutations`` or
        another ``tol`` it goes on from there too. None keeps nothing.
    verbose : int, default=0
        Above 0 a bar on standard error shows how many orders are done (lines, without tqdm).

    Notes
    -----
    *The value of small subsets.* A subset without ``min_rows`` rows of each class cannot be compared with the model of
    all rows, which knows all classes; neither can the empty one. Their objective is that of the prediction that knows
    targets and no features: the classes' shares, or the mean target, among all training rows (as scikit-learn's
    ``DummyClassifier(strategy="prior")`` and ``DummyRegressor()`` do). It is one constant for all of them: the row that
    completes the classes gets the credit for the first model. Models of few rows and no penalty may be much worse than
    that constant, and such a step then outweighs all others: penalise them, or raise ``min_rows``.

    *Rows that the model was not fitted on* (cross-fitting, ``cv=...`` of a curator) get their value in the game of the
    training rows and that row: for each order a subset is drawn, its first rows, of a size that is uniform from none to
    all, and each such row is added to it. It costs one refit a row and order, without truncation; these values do not
    add up to anything.

    *Weights.* Refits use the rows' weights. A row of weight zero is in no refit, counts for no class, and has the value
    zero.

    ``report["standard_error"]`` ``(n,)`` is the standard deviation over orders divided by the square root of their
    number. Orders have seeds of their own: the first of them are the same whatever ``n_permutations`` and ``n_jobs``.
    Refits share one seed. Shapley values are no estimate of what the removal of the row alone would do, and
    ``removal_rate="auto"`` refuses them.

    Source: Ghorbani and Zou, "Data Shapley: Equitable Valuation of Data for Machine Learning", ICML 2019, Algorithm 1.
    There the rows after the cut get nothing, and one refit within the tolerance suffices to cut.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.methods import DataShapley
    >>> X, y = make_classification(60, 4, class_sep=2.0, flip_y=0, random_state=1)
    >>> y[:3] = 1 - y[:3]  # three wrong labels
    >>> clf = LogisticRegression().fit(X[:30], y[:30])
    >>> method = DataShapley(n_permutations=10)
    >>> values = influence_scores(clf, X[:30], y[:30], X[30:], y[30:], method=method, random_state=0)
    >>> sorted(values.argsort()[:3].tolist())
    [0, 1, 2]
    """

    calibrated = False

    def __init__(
        self,
        n_permutations: int = 100,
        truncation: float = 0.01,
        tol: float | None = None,
        min_rows: int = 1,
        checkpoint_dir: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_permutations = n_permutations
        self.truncation = truncation
        self.tol = tol
        self.min_rows = min_rows
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        sampling = _Sampling.of(self)
        return sampling.score(problem, objective, rows, random_state, n_jobs)


class BetaShapley(BaseEstimator):
    """`DataShapley` with subsets of some sizes counting more than those of others.

    The value of row i is ``sum_j w(j) Delta_j(i) / n``, where ``Delta_j(i)`` is the mean fall of the objective when i
    is added to ``j - 1`` others, and ``w(j) = n C(n-1, j-1) B(j + beta - 1, n - j + alpha) / B(alpha, beta)`` with the
    beta function B. The weights have mean one, and ``alpha = beta = 1`` is `DataShapley`. A large ``alpha`` looks at
    small subsets, where one row makes a difference that stands out from the noise; a large ``beta`` at nearly all rows,
    with `LeaveOneOut` at its limit.

    In the objective's unit; positive: the row helps. Unless ``alpha = beta = 1`` the values do not add up to ``T(no
    rows) - T(all rows)``: that is the axiom which is given up.

    Parameters
    ----------
    alpha, beta : float, default=4.0 and 1.0
        Greater than zero. The size of the subset that a row is added to is beta-binomial, with mean ``(n - 1) beta /
        (alpha + beta)``.
    n_permutations, truncation, tol, min_rows, checkpoint_dir, verbose
        As for `DataShapley`.

    Notes
    -----
    Everything said of `DataShapley` holds, but for the sum. Orders are refitted only where they count: positions with
    less than a millionth of the greatest weight are left out. What an order's cut leaves is divided equally among the
    rows to come before it is weighted. For rows that the model was not fitted on the size of the subset is drawn from
    the beta-binomial distribution.

    Source: Kwon and Zou, "Beta Shapley: a Unified and Noise-reduced Data Valuation Framework for Machine Learning",
    AISTATS 2022.

    Examples
    --------
    >>> from skinfluence.methods import BetaShapley
    >>> BetaShapley(alpha=16.0)
    BetaShapley(alpha=16.0)
    """

    calibrated = False

    def __init__(
        self,
        alpha: float = 4.0,
        beta: float = 1.0,
        n_permutations: int = 100,
        truncation: float = 0.01,
        tol: float | None = None,
        min_rows: int = 1,
        checkpoint_dir: Any = None,
        verbose: int = 0,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.n_permutations = n_permutations
        self.truncation = truncation
        self.tol = tol
        self.min_rows = min_rows
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        sampling = _Sampling.of(self, _positive(self.alpha, "alpha"), _positive(self.beta, "beta"))
        return sampling.score(problem, objective, rows, random_state, n_jobs)


def _positive(value: Any, name: str) -> float:
    number = float(check_scalar(value, name, Real, min_val=0, include_boundaries="neither"))
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return number


@dataclass(frozen=True)
class _Sampling:
    """How orders are drawn, and when enough are."""

    alpha: float
    beta: float
    n_permutations: int
    truncation: float
    tol: float | None
    min_rows: int
    checkpoint_dir: Any
    verbose: int

    @classmethod
    def of(cls, method: Any, alpha: float = 1.0, beta: float = 1.0) -> _Sampling:
        """The parameters of a method, checked."""
        check_scalar(method.n_permutations, "n_permutations", Integral, min_val=2)
        check_scalar(method.truncation, "truncation", Real, min_val=0, max_val=1, include_boundaries="left")
        check_scalar(method.min_rows, "min_rows", Integral, min_val=1)
        if method.tol is not None:
            _positive(method.tol, "tol")
        names = ("n_permutations", "truncation", "tol", "min_rows", "checkpoint_dir", "verbose")
        return cls(alpha, beta, *(getattr(method, name) for name in names))

    def score(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        refit_seed, order_seed = draw_seed(random_state), draw_seed(random_state)
        warn_of_lost_checkpoints(self.checkpoint_dir, random_state)
        others = None if rows is None or rows is problem.rows else rows
        refit = Refit(problem, objective, refit_seed)
        if others is not None and others.user_weight is not None:
            refit.require_weights()
        game = Game(refit, self.min_rows, self.truncation, self.alpha, self.beta, order_seed)
        inputs = (refit.identity(), refit_seed, order_seed, self.min_rows, self.truncation, self.alpha, self.beta)
        checkpoint = Checkpoint(self.checkpoint_dir, "shapley", (*inputs, others, *RULES), stand_in)
        (whole,) = checkpoint.compute([("all", refit.whole, (game.players,))])
        game.of_all = float(whole["objective"])
        play = (game.order, ()) if others is None else (game.adding, (others,))
        mean = _RunningMean(len(problem.rows) if others is None else len(others))
        n_refits, converged = 1, None
        with progress(self.n_permutations, "orders", self.verbose) as step:
            for start in range(0, self.n_permutations, _PERMUTATIONS_A_ROUND):
                numbers = range(start, min(start + _PERMUTATIONS_A_ROUND, self.n_permutations))
                parts = [(f"order-{p:06d}", play[0], (p, *play[1])) for p in numbers]
                for part in checkpoint.compute(parts, n_jobs, step):
                    mean.add(part["falls"])
                    n_refits += int(part["n_refits"])
                if self.tol is not None:
                    converged = mean.noise() <= self.tol
                    if converged:
                        break
        if converged is False:
            warnings.warn(
                f"After {mean.n} permutations the standard error is {mean.noise():.2g} of the spread of the values, "
                f"and tol is {self.tol:g}. Raise n_permutations or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        report = {
            "standard_error": mean.standard_error(),
            "n_permutations": mean.n,
            "n_refits": n_refits,
            "converged": converged,
            "objective_empty": game.of_none,
            "objective_all": game.of_all,
        }
        return mean.mean, report


class _RunningMean:
    """Mean and spread over orders, without holding them all (Welford, 1962)."""

    def __init__(self, n_rows: int) -> None:
        self.n = 0
        self.mean = np.zeros(n_rows)
        self._squares = np.zeros(n_rows)

    def add(self, falls: np.ndarray) -> None:
        self.n += 1
        step = falls - self.mean
        self.mean = self.mean + step / self.n
        self._squares += step * (falls - self.mean)

    def standard_error(self) -> np.ndarray:
        return np.sqrt(self._squares / (self.n - 1) / self.n) if self.n > 1 else np.full(len(self.mean), np.nan)

    def noise(self) -> float:
        """Root mean square of the standard errors, relative to the standard deviation of the values over rows."""
        error, spread = np.sqrt(np.mean(self.standard_error() ** 2)), self.mean.std()
        return 0.0 if error == 0 else float(error / spread) if spread > 0 else np.inf
