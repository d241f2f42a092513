"""Self-influence: the pull of a row on its own loss, negated so that suspicious rows come first."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator

from ..objectives import BoundObjective
from ..operators import Rows, TrainingProblem
from ..preconditioners import LiSSAInverse


class SelfTracIn(BaseEstimator):
    """Self-influence without a Hessian, negated: ``-(1/n) ‖grad loss_i‖²``, so that suspicious rows come first.

    Looks at the training rows alone; the objective plays no part. Every score is zero or less: it ranks, it has no
    sign.

    Notes
    -----
    Source: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020, section 4.1.

    Examples
    --------
    >>> from skinfluence.methods import SelfTracIn
    >>> SelfTracIn()
    SelfTracIn()
    """

    calibrated = False
    uses_objective = False

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return problem.self_influences(rows), {}


class SelfLiSSA(BaseEstimator):
    """Self-influence with the Hessian, negated: ``-(1/n) grad loss_i . P grad loss_i``, P from `LiSSA`.

    Looks at the training rows alone; the objective plays no part. Every score is zero or less: it ranks, it has no
    sign.

    Parameters
    ----------
    damping, scale, depth, tol, batch_size, n_repeats
        Those of `LiSSA`.

    Notes
    -----
    Cost: one right-hand side for each of the n rows, up to ``n * depth`` products with the Hessian, so that it grows
    with n². Where there are few parameters (and ``batch_size`` is None) the p products that make the Hessian are taken
    once, and all steps together are two products of ``(p, p)`` and ``(p, n)`` arrays, by its eigenvectors. Rows are
    solved in blocks that keep within ``sklearn.get_config()["working_memory"]``, one after the other; ``n_jobs``
    changes nothing.

    It fails where LiSSA does, and where many rows have gradients of the same size: the ranking is then one of
    leverage.

    Source: Bejan, Sokolov and Filippova, "Make Every Example Count: On the Stability and Utility of Self-Influence for
    Learning from Noisy NLP Datasets", EMNLP 2023; Koh and Liang, ICML 2017, section 5.4.

    Examples
    --------
    >>> from skinfluence.methods import SelfLiSSA
    >>> SelfLiSSA(damping=0.01)
    SelfLiSSA(damping=0.01)
    """

    calibrated = False
    uses_objective = False

    def __init__(
        self,
        damping: float | str = "auto",
        scale: float | str = "auto",
        depth: int = 1000,
        tol: float = 1e-4,
        batch_size: int | None = None,
        n_repeats: int = 1,
    ) -> None:
        self.damping = damping
        self.scale = scale
        self.depth = depth
        self.tol = tol
        self.batch_size = batch_size
        self.n_repeats = n_repeats

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        rows = problem.rows if rows is None else rows
        seed = int(random_state.randint(np.iinfo(np.int32).max))
        inverse = LiSSAInverse(**self.get_params(deep=False), random_state=seed)
        solve, report = inverse.at(problem, problem.params)
        scores = np.empty(len(rows))
        # At most six arrays (p, rows of a block) are alive at once.
        step = max(int(get_config()["working_memory"] * 2**20) // (6 * 8 * problem.n_params), 1)
        for start in range(0, len(rows), step):
            block = range(start, min(start + step, len(rows)))
            G = row_gradients(problem, rows, block)
            scores[block.start : block.stop] = np.einsum("pi,pi->i", G, solve(G))
        scores *= -1.0 / problem.total_weight
        return scores if rows.weight is None else scores * rows.weight, report


def row_gradients(problem: TrainingProblem, rows: Rows, block: range) -> np.ndarray:
    """``grad loss_i`` at the fitted parameters for the rows of a block, not weighted, ``(p, b)``."""
    penalty = problem.penalty_scale * problem.fitted.penalty.gradient(problem.params)
    G = np.empty((problem.n_params, len(block)))
    own = rows.take(np.arange(block.start, block.stop))  # read, or fetched, once
    for column in range(len(block)):
        one = Rows(own.X[[column]], own.y[[column]], name=rows.name)
        G[:, column] = problem.gradient(problem.params, one) - penalty
    return G
