"""The curators: `InfluenceSelector` removes rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._crossfit import Table
from ._curator import Curator
from ._rates import n_chosen


class InfluenceSelector(Curator):
    """Remove the training rows that hurt the model most.

    Every row gets an influence score: by how much the objective would rise if it were removed. The rows with the lowest
    scores are removed, never all of a class. Without validation rows the scores are cross-fitted: each row is scored by
    a model that never saw it, under a loss that bears wrong labels.

    Use it in `skinfluence.Pipeline`, `CuratedClassifier` or `CuratedRegressor`, or in imbalanced-learn's Pipeline by
    `as_sampler`: there rows are removed. In a stock scikit-learn Pipeline removed rows are replaced by kept rows of
    their class.

    Parameters
    ----------
    estimator : estimator, "final" or None, default=None
        The model through which influence is taken: a linear estimator of scikit-learn or a Pipeline that ends in one.
        It is cloned and fitted; a `sklearn.frozen.FrozenEstimator` is taken as fitted. None: logistic regression or
        ridge on standardised columns. "final": the steps that follow, in `skinfluence.Pipeline` and the Curated
        estimators. The final model may be of any kind otherwise.
    method : str or method object, default="ip_ensemble"
        A name, such as "ip", "exact", "ekfac", "self_tracin" or "knn_shapley" (all are in
        `skinfluence.methods.METHODS`), or a configured object from `skinfluence.methods`.
    objective : str or objective object, default="utility"
        What counts as harm; see `skinfluence.objectives`.
    removal_rate : float in [0, 1) or "auto", default=0.05
        Share of the rows to remove; "auto" removes the rows with a negative score, and needs a method whose scores are
        calibrated ("exact", "cg", "leave_one_out").
    n_rounds : int, default=1
        Rounds of scoring; from the second on models and objective are refitted on the rows kept so far, and all rows
        are scored again.
    cv : int, splitter or None, default=5
        Folds for cross-fitting, where no validation rows are given. None: one fit, scored in-sample.
    on_fit_transform : {"redraw", "raise"}, default="redraw"
        What to do in a stock Pipeline, where rows cannot be dropped.
    memory : str, joblib.Memory or None, default=None
        Cache of the scores, apart from ``removal_rate``: a grid over it scores once for each fold. Needs an integer
        ``random_state``.
    n_jobs : int, default=None
        Folds fitted at the same time.
    random_state : int, RandomState instance or None, default=None
        Seed of folds, dropout masks and re-draws, and of the estimator's own ``random_state=None``.
    verbose : int, default=0
        Above 0 a line is printed each round, and a bar on standard error shows how many folds are done (lines, without
        tqdm). Methods that refit have a ``verbose`` of their own, whose bars are drawn below.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,)
        Influence of each row, from the last round. Negative: the row hurts.
    support_ : ndarray of bool of shape (n_samples,)
        The rows kept.
    sample_indices_ : ndarray of int of shape (n_kept,)
        Their indices.
    sample_weight_ : ndarray of shape (n_kept,) or None
        Their weights, if weights were given.
    threshold_ : float
        Rows that score below it are removed (ties by row order); 0 for "auto".
    estimator_ : estimator
        The model that gave the scores. Cross-fitted models are discarded: after `fit` it is then one fitted on the rows
        kept, and inside a Pipeline, where the steps that follow are fitted on them, it is left out.
    diagnostics_ : list of dict
        What the method reports for each model: solver, damping, rank, residual; and, for objectives about fairness or
        robustness, the value that was differentiated and the hard metric, each at that model.
    notes_ : list of str
        What the method has to say about its scores, such as that by this name they are those of another method for this
        model: each note once, in the order in which they came. Empty where there is none.
    engine_ : str
        How gradients were taken: "analytic" for linear models, for nets an engine of `skinfluence.nets`.
    scores_by_objective_ : dict of str to ndarray of shape (n_samples,)
        For a joint objective, the scores for each of its objectives.
    task_ : {"classification", "regression"}
    classes_ : ndarray of shape (n_classes,)
        Classes, for classification.
    n_features_in_ : int
    feature_names_in_ : ndarray of str of shape (n_features_in_,)

    See Also
    --------
    influence_scores : The scores of a fitted estimator, as a function.

    Notes
    -----
    Source: "Revisit, Extend, and Enhance Hessian-Free Influence Functions".

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import InfluenceSelector, Pipeline
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> y[:20] = 1 - y[:20]  # twenty wrong labels
    >>> pipe = Pipeline([
    ...     ("scale", StandardScaler()),
    ...     ("curate", InfluenceSelector(removal_rate=0.05, random_state=0)),
    ...     ("clf", LogisticRegression()),
    ... ]).fit(X, y)
    >>> removed = ~pipe["curate"].get_support()
    >>> int(removed.sum()), int(removed[:20].sum())
    (28, 18)
    """

    _rate_name = "removal_rate"

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Any = "ip_ensemble",
        objective: Any = "utility",
        removal_rate: float | str = 0.05,
        n_rounds: int = 1,
        cv: Any = 5,
        on_fit_transform: str = "redraw",
        memory: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.objective = objective
        self.removal_rate = removal_rate
        self.n_rounds = n_rounds
        self.cv = cv
        self.on_fit_transform = on_fit_transform
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _kept_after(self, scores: np.ndarray, codes: np.ndarray | None, weight: np.ndarray | None) -> np.ndarray:
        order = np.argsort(scores, kind="stable")  # ties by row order
        kept = np.ones(len(scores), dtype=bool)
        kept[order[: n_chosen(self.removal_rate, scores)]] = False
        # A class keeps its best row, and one that counts; a regression target is one class here.
        groups = np.zeros(len(scores), dtype=np.intp) if codes is None else codes
        counted = np.ones(len(scores), dtype=bool) if weight is None else weight > 0
        for group in range(int(groups.max()) + 1):
            rows = order[(groups == group)[order]]
            rows = rows[counted[rows]] if counted[rows].any() else rows
            if not kept[rows].any():
                kept[rows[-1]] = True
        return kept

    def _act(self, table: Table, codes: np.ndarray | None) -> None:
        self.support_ = self._kept_after(self.scores_, codes, table.sample_weight)
        n_removed = n_chosen(self.removal_rate, self.scores_)
        automatic = isinstance(self.removal_rate, str)
        self.threshold_ = 0.0 if automatic else float(np.sort(self.scores_)[n_removed])
        self.sample_weight_ = None if table.sample_weight is None else table.sample_weight[self.support_]
