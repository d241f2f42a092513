"""`influence_scores`: the functional front door."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import check_random_state

from ._held_out import HeldOut
from .methods import resolve_method
from .methods._base import GradientMethod
from .models import as_model
from .models._blocks import take
from .models.linear import LinearModel
from .objectives import MeanLoss, resolve_objective
from .operators import Rows, TrainingProblem, are_finite, require_finite, unwarned_floats
from .preconditioners import Identity


@unwarned_floats()
def influence_scores(
    estimator: Any,
    X: Any,
    y: Any,
    X_val: Any = None,
    y_val: Any = None,
    *,
    method: Any = "ip",
    objective: Any = "utility",
    sample_weight: Any = None,
    sensitive_features: Any = None,
    sensitive_features_val: Any = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    per_validation_row: bool = False,
) -> np.ndarray | Iterator[np.ndarray]:
    """Influence of each training row of a fitted estimator on an objective.

    ``scores[i]`` estimates by how much the objective, which is lower for better models, *rises* if row ``i`` is
    *removed* from the training rows. Positive: the row helps. Negative: it hurts. It is ``(w_i / Σw) grad loss_i . P
    g``, with ``g`` the gradient of the objective on the validation rows and ``P`` the method's preconditioner (Koh and
    Liang, ICML 2017).

    The estimator is taken as it is and not refitted, except by methods that refit by definition ("leave_one_out").

    Parameters
    ----------
    estimator : estimator
        A fitted linear estimator of scikit-learn, or a fitted Pipeline that ends in one; see
        `skinfluence.models.as_model`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The rows the estimator was fitted on.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Their targets.
    X_val : {array-like, sparse matrix} of shape (n_validation, n_features) or HeldOut, default=None
        Validation rows, whose labels are trusted. A `HeldOut` brings its own targets and weights. If None, the
        objective is taken on the training rows under a loss that bears wrong labels; see
        `skinfluence.objectives.Utility`.
    y_val : array-like of shape (n_validation,) or (n_validation, n_targets), default=None
        Their targets.
    method : str or method object, default="ip"
        One of "ip", "ip_ensemble", "exact", "cg", "lissa", "arnoldi", "datainf", "ekfac", "tracin", "tda", "gex",
        "trak", "self_tracin", "self_lissa", "leave_one_out", "data_shapley", "beta_shapley" and "knn_shapley", or a
        configured object from `skinfluence.methods`.
    objective : str or objective object, default="utility"
        "utility", or a configured object from `skinfluence.objectives`.
    sample_weight : array-like of shape (n_samples,), default=None
        The weights the estimator was fitted with.
    sensitive_features, sensitive_features_val : array-like, default=None
        Groups of the rows, for objectives about fairness. Objectives that use none refuse them.
    random_state : int, RandomState instance or None, default=None
        Seed of methods that draw at random, such as "ip_ensemble".
    n_jobs : int, default=None
        Number of jobs for methods that have independent parts.
    per_validation_row : bool, default=False
        Yield the scores of each validation row by itself: blocks ``(b, n_samples)`` of the ``(n_validation,
        n_samples)`` matrix, in order, whose (weighted) mean over rows is ``scores``. Gradient methods and objectives
        that are means over rows only.

    Returns
    -------
    scores : ndarray of shape (n_samples,), or an iterator of ndarrays of shape (b, n_samples)
        In float64.

    Raises
    ------
    TypeError
        If the estimator, the method or the objective is of no supported kind, or the method needs a second derivative
        that the estimator's loss does not have.
    ValueError
        If the input is not finite, its lengths or widths do not match, labels are unknown, or a parameter is out of
        range.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence import influence_scores
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X, X_val, y, y_val = train_test_split(scale(X), y, random_state=0)
    >>> y[:20] = 1 - y[:20]  # twenty wrong labels
    >>> scores = influence_scores(LogisticRegression().fit(X, y), X, y, X_val, y_val, method="exact")
    >>> int((scores.argsort()[:20] < 20).sum())  # so many of them are among the twenty lowest
    14
    """
    method = resolve_method(method)
    problem = TrainingProblem(as_model(estimator), X, y, sample_weight)
    held_out = as_held_out(X_val, y_val, sensitive_features_val)
    groups = None if held_out is None else held_out.sensitive_features
    refuse_groups(objective, sensitive_features, groups)
    objective = resolve_objective(objective)
    parts = [bind(part, problem, held_out, sensitive_features, method) for part in parts_of(objective)]
    rng = check_random_state(random_state)
    if per_validation_row:
        return _validation_matrix(problem, parts, method, rng, n_jobs)
    if len(parts) == 1:
        return require_finite_scores(method.score_rows(problem, parts[0], None, rng, n_jobs)[0])
    # Each objective of a joint one is scored with the same draws.
    state = rng.get_state()
    by_part = np.empty((len(problem.rows), len(parts)))
    for j, part in enumerate(parts):
        rng.set_state(state)
        by_part[:, j], _ = method.score_rows(problem, part, None, rng, n_jobs)
    return combined(objective, require_finite_scores(by_part))


def as_held_out(X_val: Any, y_val: Any, sensitive_features_val: Any = None) -> HeldOut | None:
    """Validation rows in whichever of the two ways they were given, or None."""
    if isinstance(X_val, HeldOut):
        if y_val is not None or sensitive_features_val is not None:
            raise ValueError(
                "X_val is a HeldOut, which brings its own targets and groups: leave y_val and sensitive_features_val "
                "out."
            )
        return X_val
    if (X_val is None) != (y_val is None):
        raise ValueError(f"X_val and y_val go together: got {'y_val' if X_val is None else 'X_val'} alone.")
    if X_val is None:
        if sensitive_features_val is not None:
            raise ValueError("sensitive_features_val are the groups of X_val, and no X_val was given.")
        return None
    return HeldOut(X_val, y_val, sensitive_features=sensitive_features_val)


def parts_of(objective: Any) -> list[Any]:
    """The objectives that a joint one is made of, each scored by itself; any other is its own only part."""
    return list(objective.parts()) if hasattr(objective, "parts") else [objective]


def combined(objective: Any, by_part: np.ndarray) -> np.ndarray:
    """One score ``(n,)`` for each row of ``by_part (n, n_objectives)``."""
    scores: np.ndarray = objective.combine_scores(by_part) if hasattr(objective, "parts") else by_part[:, 0]
    return scores


def bind(
    objective: Any, problem: TrainingProblem, held_out: HeldOut | None, sensitive_features: Any, method: Any = None
) -> Any:
    """The objective on the held-out rows, which are trusted, or on the training rows."""
    # A method that looks at no objective needs none that bears wrong labels, which not every loss has.
    trusted = held_out is not None or not getattr(method, "uses_objective", True)
    if held_out is None:
        rows, groups = problem.rows, sensitive_features
    else:
        rows = _validation_rows(problem, held_out)
        groups = held_out.sensitive_features
    # Groups that a joint objective brings for one of its parts are none of the others' business.
    groups = groups if getattr(objective, "uses_groups", False) else None
    return objective.bind(problem, rows, trusted=trusted, sensitive_features=groups)


def _validation_rows(problem: TrainingProblem, held_out: HeldOut) -> Rows:
    try:
        rows = problem.other_rows(held_out.X, held_out.y, held_out.sample_weight, name="X_val")
    except ValueError as error:
        raise ValueError(f"In the validation rows: {error}") from error
    if rows.weight is not None and not rows.weight.any():
        raise ValueError(
            "All validation rows have weight zero, by their sample_weight or the estimator's class_weight."
        )
    return rows


def refuse_groups(objective: Any, *groups: Any) -> None:
    """Groups that the objective would ignore raise."""
    if any(g is not None for g in groups) and not getattr(resolve_objective(objective), "uses_groups", False):
        raise ValueError(
            f"objective={objective!r} uses no sensitive features: leave them out, or choose an objective about "
            "fairness."
        )


def require_finite_scores(scores: np.ndarray) -> np.ndarray:
    """The scores, or an error if one is not a number."""
    if not are_finite(scores):
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite: the gradients "
            "overflow. Scale the features."
        )
    return scores


def _validation_matrix(
    problem: TrainingProblem, parts: list[Any], method: Any, rng: np.random.RandomState, n_jobs: int | None
) -> Iterator[np.ndarray]:
    """Check what can be checked before the first block is asked for, then stream the blocks."""
    if not isinstance(method, GradientMethod):
        raise TypeError(f"per_validation_row=True needs a gradient method with a validation gradient, got {method!r}.")
    bound = parts[0]
    if len(parts) > 1 or not isinstance(bound, MeanLoss):
        raise TypeError(
            "per_validation_row=True needs an objective that is a mean over validation rows, such as 'utility'."
        )
    snapshots, _ = method.solves(problem, rng, n_jobs)
    linear = isinstance(problem.fitted.model, LinearModel)
    plain = linear and isinstance(method.parts()[1], Identity) and bool(problem.free.all())
    return _blocks(problem, bound, snapshots, plain)


def _blocks(problem: TrainingProblem, bound: MeanLoss, snapshots: Any, plain: bool) -> Iterator[np.ndarray]:
    n, m = len(problem.rows), len(bound.rows)
    weight = bound.rows.weight
    # The mean over validation rows of the blocks is the score: weights enter relative to their mean.
    relative = 1.0 if weight is None else len(weight) / float(weight.sum())
    per_row = 8 * (2 * n + (0 if plain else 4 * problem.n_params))
    step = max(int(get_config()["working_memory"] * 2**20) // (4 * per_row), 1)
    for start in range(0, m, step):
        at = slice(start, min(start + step, m))
        yield _block(problem, bound, snapshots, plain, at, relative)


@unwarned_floats()
def _block(
    problem: TrainingProblem, bound: MeanLoss, snapshots: Any, plain: bool, at: slice, relative: float
) -> np.ndarray:
    X = take(bound.rows.X, at)
    block = np.zeros((at.stop - at.start, len(problem.rows)))
    for snapshot_weight, params, solve in snapshots:
        F = problem.fitted.model.at(params).outputs(X)
        D = bound.row_cotangents(F, at) * relative
        if plain:
            _add_kernel_block(block, problem, params, X, D, snapshot_weight)
        else:
            G = np.stack([problem.fitted.model.at(params).vjp(X[[i]], D[[i]]) for i in range(D.shape[0])], axis=1)
            block += snapshot_weight * problem.score_matrix(params, solve(G).T)
    return require_finite_scores(block)


def _add_kernel_block(
    block: np.ndarray,
    problem: TrainingProblem,
    params: np.ndarray,
    X_val: Any,
    D_val: np.ndarray,
    snapshot_weight: float,
) -> None:
    """Gradients of a linear model are outer products, so their inner products are ``(d_i . d_v)(x_i . x_v +
    intercept)``.
    """
    model = problem.fitted.model
    assert isinstance(model, LinearModel)
    model = model.at(params)
    for at, X, y, weight in problem.rows.blocks(4 * model.n_outputs):
        F = model.outputs(X)
        require_finite(F, X, problem.rows.name)
        D = problem.loss.gradient(F, y)
        D = D if weight is None else D * weight[:, None]
        kernel = _dense(X @ X_val.T).T + model.fit_intercept
        kernel = kernel * (D_val @ D.T)
        block[:, at] += kernel * (snapshot_weight / problem.total_weight)


def _dense(product: Any) -> np.ndarray:
    return product.toarray() if hasattr(product, "toarray") else product
