"""How well scores predict what refits show: the linear datamodeling score, and leave-one-out.

Both compare a prediction made of scores with the objective of models that are fitted anew without some rows. Scores say
by how much the objective *rises* when a row is *removed*; so the rise without a set of rows is predicted by the sum of
their scores, and the rows that are *kept* predict, by theirs, a *lower* objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state, check_scalar

from ._bootstrap import Bootstrap
from ._checkpoint import Arrays, Checkpoint, Part
from ._scores import as_held_out, bind, refuse_groups
from .methods._refit import Refit, draw_seed, stand_in, warn_of_lost_checkpoints
from .models import as_model
from .models._fitted import NO_CLASS
from .objectives import MeanLoss, resolve_objective
from .operators import TrainingProblem

__all__ = ["Fidelity", "leave_one_out_correlation", "linear_datamodeling_score"]

_FEWEST = 3
_MOST_DRAWS = 1000


@dataclass(frozen=True)
class Fidelity:
    """Agreement of predicted with actual changes of the objective.

    Attributes
    ----------
    score : float
        Their correlation, in [-1, 1]: 1 if the scores put all refits in their right order, 0 if they know nothing.
    confidence_interval : tuple of (float, float)
        Percentile bootstrap interval of ``score``, over refits and, where there are several, validation rows.
    predicted : ndarray of shape (n_refits,) or (n_validation, n_refits)
        By how much the objective should rise, or the loss of each validation row: the sum of the scores of the rows
        left out.
    actual : ndarray of shape (n_refits,) or (n_validation, n_refits)
        By how much it rises when the model is refitted without them.
    score_by_row : ndarray of shape (n_validation,) or None
        The correlation for each validation row, of which ``score`` is the weighted mean.
    """

    score: float
    confidence_interval: tuple[float, float]
    predicted: np.ndarray = field(repr=False)
    actual: np.ndarray = field(repr=False)
    score_by_row: np.ndarray | None = field(default=None, repr=False)


def linear_datamodeling_score(
    estimator: Any,
    X: Any,
    y: Any,
    scores: Any,
    X_val: Any = None,
    y_val: Any = None,
    *,
    objective: Any = "utility",
    kept_share: float = 0.5,
    n_subsets: int = 100,
    n_repeats: int = 1,
    sample_weight: Any = None,
    sensitive_features: Any = None,
    sensitive_features_val: Any = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    random_state: Any = None,
    n_jobs: int | None = None,
    checkpoint_dir: Any = None,
) -> Fidelity:
    """Rank correlation of the objective of models fitted on random subsets with what sums of scores predict.

    Parameters
    ----------
    estimator : estimator
        The fitted estimator that was scored; clones of it are fitted on the subsets.
    X, y : array-like
        The rows the estimator was fitted on, and their targets.
    scores : array-like of shape (n_samples,) or (n_validation, n_samples), or iterator of blocks (b, n_samples)
        Influence scores in the sign of `influence_scores`: positive, the row helps. One row of scores for each
        validation row, as an array or as the blocks of ``influence_scores(..., per_validation_row=True)``, asks for
        the mean over validation rows of the correlation for each, as in the source.
    X_val, y_val : array-like, or HeldOut and None, default=None
        Validation rows, as for `influence_scores`.
    objective : str or objective object, default="utility"
        What the scores are about. With scores for each validation row it must be a mean over them.
    kept_share : float in (0, 1), default=0.5
        Share of the rows in a subset, "alpha" in the source.
    n_subsets : int, default=100
        Number of subsets, at least 3. One that lacks a class is drawn again.
    n_repeats : int, default=1
        Refits of each subset, each with a seed of its own, whose objectives are averaged. An estimator that draws
        nothing at random is refitted once.
    sample_weight, sensitive_features, sensitive_features_val : array-like, default=None
        As for `influence_scores`.
    confidence_level : float in (0, 1), default=0.95
    n_resamples : int, default=1000
        Bootstrap samples.
    random_state : int, RandomState instance or None, default=None
        Seed of subsets, refits and bootstrap.
    n_jobs : int, default=None
        Refits at the same time.
    checkpoint_dir : str or path, default=None
        A folder where finished refits are kept. They do not depend on the scores: a run that was stopped goes on where
        it was, and other methods' scores of the same model are judged without another refit. Needs an integer
        ``random_state``.

    Returns
    -------
    fidelity : Fidelity
        Its ``score`` is 1 if the scores order all subsets rightly. It is the correlation of ``sum of scores of the rows
        kept`` with *minus* the objective, or, what is the same, of the scores left out with the rise.

    Raises
    ------
    TypeError
        If the estimator or the objective is of no supported kind or, with scores for each validation row, the objective
        is no mean over rows.
    ValueError
        If the scores are not finite, not as many as rows, or all alike; if a parameter is out of range; or if subsets
        of this share lack a class again and again.

    Notes
    -----
    Validation rows count by their weights; one whose scores, or losses, are all alike counts as 0. The bootstrap draws
    subsets and, where each has scores of its own, validation rows.

    Source: Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023, section 2; Ilyas et al., "Datamodels",
    ICML 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence import influence_scores
    >>> from skinfluence.fidelity import linear_datamodeling_score
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X, X_val, y, y_val = train_test_split(scale(X), y, random_state=0)
    >>> clf = LogisticRegression().fit(X, y)
    >>> for method in ("exact", "ip"):
    ...     scores = influence_scores(clf, X, y, X_val, y_val, method=method)
    ...     lds = linear_datamodeling_score(clf, X, y, scores, X_val, y_val, n_subsets=40, random_state=0)
    ...     print(method, lds.score > 0.9)
    exact True
    ip False
    """
    check_scalar(kept_share, "kept_share", Real, min_val=0, max_val=1, include_boundaries="neither")
    check_scalar(n_subsets, "n_subsets", Integral, min_val=_FEWEST)
    check_scalar(n_repeats, "n_repeats", Integral, min_val=1)
    validation = (X_val, y_val, sensitive_features_val)
    problem, bound = _bound(estimator, (X, y, sample_weight), validation, objective, sensitive_features)
    rng = check_random_state(random_state)
    subset_seed, bootstrap = draw_seed(rng), Bootstrap(n_resamples, confidence_level, draw_seed(rng))
    refits = _repeats(problem, bound, n_repeats, rng)
    warn_of_lost_checkpoints(checkpoint_dir, rng)
    kept = _subsets(problem, kept_share, n_subsets, subset_seed)
    by_row, predicted = _predictions(scores, ~kept, len(bound.rows) if isinstance(bound, MeanLoss) else None)
    rises = []
    for refit in refits:
        inputs = (refit.identity(), subset_seed, kept_share)
        checkpoint = Checkpoint(checkpoint_dir, "subsets", inputs, stand_in)
        parts: list[Part] = [("all", _losses, (refit, None))]
        parts += [(f"subset-{j:06d}", _losses, (refit, np.flatnonzero(row))) for j, row in enumerate(kept)]
        all_rows, *losses = (part["rows" if by_row else "objective"] for part in checkpoint.compute(parts, n_jobs))
        rises.append(np.stack([loss - all_rows for loss in losses], axis=-1))
    actual = np.mean(rises, axis=0)
    weight = bound.rows.weight if by_row else None
    score, interval, each = bootstrap.correlate(predicted, actual, weight)
    return Fidelity(score, interval, predicted, actual, each if by_row else None)


def leave_one_out_correlation(
    estimator: Any,
    X: Any,
    y: Any,
    scores: Any,
    X_val: Any = None,
    y_val: Any = None,
    *,
    objective: Any = "utility",
    n_rows: int | None = None,
    n_repeats: int = 1,
    sample_weight: Any = None,
    sensitive_features: Any = None,
    sensitive_features_val: Any = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    random_state: Any = None,
    n_jobs: int | None = None,
    checkpoint_dir: Any = None,
) -> Fidelity:
    """Rank correlation of scores with the rise of the objective when each row alone is left out and the model refitted.

    Parameters
    ----------
    estimator, X, y, X_val, y_val, objective, sample_weight, sensitive_features, sensitive_features_val
        As for `influence_scores`.
    scores : array-like of shape (n_samples,)
        Influence scores in the sign of `influence_scores`: positive, the row helps.
    n_rows : int, default=None
        How many rows, drawn at random, are left out in turn, at least 3; None: all of them.
    n_repeats : int, default=1
        Refits without each row, each with a seed of its own, whose rises are averaged. An estimator that draws nothing
        at random is refitted once.
    confidence_level, n_resamples, random_state, n_jobs, checkpoint_dir
        As for `linear_datamodeling_score`; ``random_state`` is the seed of the rows, of the bootstrap, and of
        estimators that draw at random.

    Returns
    -------
    fidelity : Fidelity
        ``predicted`` are the scores of the rows, ``actual`` the values of `skinfluence.methods.LeaveOneOut`, or the
        mean of those of several seeds.

    Raises
    ------
    TypeError, ValueError
        As `linear_datamodeling_score`, and if a class has one row alone.

    Notes
    -----
    One row changes little: where refits draw at random, or stop before they converge, their noise hides it. Repeats
    lower the noise, and `linear_datamodeling_score` has less of it from the start.

    Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017, section 4.1.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.fidelity import leave_one_out_correlation
    >>> X, y = make_classification(150, 5, random_state=0)
    >>> clf = LogisticRegression(tol=1e-8).fit(X[:80], y[:80])
    >>> data = (clf, X[:80], y[:80])
    >>> scores = influence_scores(*data, X[80:], y[80:], method="exact")
    >>> round(leave_one_out_correlation(*data, scores, X[80:], y[80:], random_state=0).score, 2)
    1.0
    """
    validation = (X_val, y_val, sensitive_features_val)
    problem, bound = _bound(estimator, (X, y, sample_weight), validation, objective, sensitive_features)
    n = len(problem.rows)
    if n_rows is not None:
        check_scalar(n_rows, "n_rows", Integral, min_val=_FEWEST, max_val=n)
    check_scalar(n_repeats, "n_repeats", Integral, min_val=1)
    rng = check_random_state(random_state)
    row_seed, bootstrap = draw_seed(rng), Bootstrap(n_resamples, confidence_level, draw_seed(rng))
    refits = _repeats(problem, bound, n_repeats, rng)
    refits[0].require_two_of_each_class()
    if refits[0].random or n_rows is not None:
        warn_of_lost_checkpoints(checkpoint_dir, rng)
    rows = np.arange(n) if n_rows is None else np.sort(np.random.RandomState(row_seed).permutation(n)[:n_rows])
    _, predicted = _predictions(scores, np.eye(n, dtype=bool)[rows], None)
    rises = []
    for refit in refits:
        checkpoint = Checkpoint(checkpoint_dir, "rows", (refit.identity(),), stand_in)
        parts = [(f"row-{i:09d}", refit.objectives, (np.array([i]), None)) for i in rows.tolist()]
        base = refit.base(checkpoint)
        rises.append(np.concatenate([part["objective"] for part in checkpoint.compute(parts, n_jobs)]) - base)
    actual = np.mean(rises, axis=0)
    score, interval, _ = bootstrap.correlate(predicted, actual, None)
    return Fidelity(score, interval, predicted, actual)


def _bound(
    estimator: Any, rows: tuple[Any, Any, Any], validation: tuple[Any, Any, Any], objective: Any, groups: Any
) -> tuple[TrainingProblem, Any]:
    """The training problem, and the objective on its rows, as `influence_scores` makes them."""
    problem = TrainingProblem(as_model(estimator), *rows)
    held_out = as_held_out(*validation)
    refuse_groups(objective, groups, None if held_out is None else held_out.sensitive_features)
    objective = resolve_objective(objective)
    if hasattr(objective, "parts"):
        raise TypeError(
            f"A joint objective has no value of its own to compare with, got {objective!r}. Give its parts."
        )
    return problem, bind(objective, problem, held_out, groups)


def _repeats(problem: TrainingProblem, bound: Any, n_repeats: int, rng: np.random.RandomState) -> list[Refit]:
    """Refits with a seed each, or one where seeds change nothing."""
    refits = [Refit(problem, bound, draw_seed(rng)) for _ in range(n_repeats)]
    return refits if refits[0].random else refits[:1]


def _subsets(problem: TrainingProblem, kept_share: float, n_subsets: int, seed: int) -> np.ndarray:
    """Marks ``(n_subsets, n)`` of the rows in each subset; every class is in all of them."""
    rows, classes = problem.rows, problem.fitted.classes
    n = len(rows)
    size = min(max(round(kept_share * n), 1), n - 1)
    counts = np.ones(n) if rows.user_weight is None else rows.user_weight > 0
    kept = np.zeros((n_subsets, n), dtype=bool)
    for j, subset in enumerate(kept):
        # A seed for each subset: it is the same whichever others are drawn.
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, j])))
        for _ in range(_MOST_DRAWS):
            subset[:] = False
            subset[rng.permutation(n)[:size]] = True
            chosen = subset & (rows.y != NO_CLASS) if classes is not None else subset
            by_class = np.bincount(rows.y[chosen], counts[chosen], len(classes)) if classes is not None else np.ones(1)
            if by_class.all():
                break
        else:
            assert classes is not None
            raise ValueError(
                f"{_MOST_DRAWS} random subsets of {size} of {n} rows each lacked a class; {classes[by_class == 0]} are "
                "the last ones missing. Keep a greater share of the rows (kept_share), or leave out rare classes."
            )
    return kept


def _predictions(scores: Any, left_out: np.ndarray, n_validation: int | None) -> tuple[bool, np.ndarray]:
    """Whether each validation row has scores of its own, and the sums of those of the rows ``left_out (J, n)``.

    ``n_validation`` is None where there must be one score a row.
    """
    blocks = scores if isinstance(scores, Iterator) else iter([np.asarray(scores)])
    sums, by_row = [], isinstance(scores, Iterator)
    for given in blocks:
        block = np.asarray(given, dtype=np.float64)
        if block.ndim not in (1, 2) or block.shape[-1] != left_out.shape[1]:
            raise ValueError(
                f"scores must have shape (n_samples,) or (n_validation, n_samples), with n_samples="
                f"{left_out.shape[1]}; got {block.shape}."
            )
        if not np.isfinite(block).all():
            raise ValueError("scores must be finite, got NaN or infinity.")
        by_row = by_row or block.ndim == 2
        if not by_row and np.ptp(block) == 0:
            raise ValueError("scores must differ between rows, got all of them alike: they order nothing.")
        # Scores that are all alike predict the same for all subsets, whatever the order in which they are added.
        varies = np.ptp(block, axis=-1, keepdims=True) > 0
        sums.append(np.where(varies, block, 0.0) @ left_out.T)
    if not by_row:
        return False, sums[0]
    predicted = np.concatenate(sums) if sums else np.empty((0, len(left_out)))
    if n_validation is None:
        raise TypeError(
            "scores for each validation row need an objective that is a mean over them, such as 'utility', and "
            "linear_datamodeling_score. Give one score a row, of shape (n_samples,)."
        )
    if len(predicted) != n_validation:
        raise ValueError(f"scores must have one row for each of {n_validation} validation rows, got {len(predicted)}.")
    return True, predicted


def _losses(refit: Refit, keep: np.ndarray | None) -> Arrays:
    """The objective of a model refitted on some rows and, where it is a mean over rows, the loss of each."""
    model = refit.model(keep)
    found = {"objective": np.array(refit.objective.value(model))}
    if isinstance(refit.objective, MeanLoss):
        loss, rows = refit.objective.loss, refit.objective.rows
        blocks = rows.blocks(3 * model.n_outputs)
        found["rows"] = np.concatenate([loss.value(model.outputs(X), y) for _, X, y, _ in blocks]).astype(np.float64)
    return found
