"""`InfluenceRelabeler`: gives the rows that hurt the label that would help."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._crossfit import Scored, Table
from ._curator import Curator
from ._rates import n_chosen
from ._rows import is_dataset, take_rows
from .models._fitted import Task


class InfluenceRelabeler(Curator):
    """Give the most detrimental training rows the label that the objective prefers.

    All labels of all rows are scored from one directional derivative: with the class probabilities p and the derivative
    D of the outputs along the direction of influence, the score of a row under label c is ``Σ_k p_k D_k - D_c`` for the
    log-loss, and a row gets the label with the highest. For two classes that is a flip.

    Changes y, so it works in `skinfluence.Pipeline`, `CuratedClassifier` and imbalanced-learn's Pipeline; a stock
    scikit-learn Pipeline has no place for new labels, and raises. Classifiers only.

    Parameters
    ----------
    estimator : estimator, "final" or None, default=None
        The model through which influence is taken; see `InfluenceSelector`.
    method : str or method object, default="ip_ensemble"
        A gradient method: "ip", "ip_ensemble", "exact" or "cg", or a configured object.
    objective : str or objective object, default="utility"
        What counts as harm; see `skinfluence.objectives`.
    relabel_rate : float in [0, 1) or "auto", default=0.05
        Share of the rows, those with the lowest scores, that may get another label; a row whose own label is the
        preferred one keeps it. "auto" takes the rows with a negative score, and needs a calibrated method.
    cv : int, splitter or None, default=5
        Folds for cross-fitting, where no validation rows are given. None: one fit, scored in-sample.
    memory : str, joblib.Memory or None, default=None
        Cache of the scores, apart from ``relabel_rate``. Needs an integer ``random_state``.
    n_jobs : int, default=None
        Folds fitted at the same time.
    random_state : int, RandomState instance or None, default=None
        Seed of folds and dropout masks, and of the estimator's own ``random_state=None``.
    verbose : int, default=0
        Above 0 a line is printed when the rows are scored, and a bar on standard error shows how many folds are done
        (lines, without tqdm). Methods that refit have a ``verbose`` of their own, whose bars are drawn below.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,)
        Influence of each row under its own label. Negative: the row hurts.
    label_scores_ : ndarray of shape (n_samples, n_classes)
        What its influence would be under each of ``classes_``.
    y_ : array of shape (n_samples,)
        The labels after curation, in the container of ``y``.
    relabeled_ : ndarray of bool of shape (n_samples,)
        The rows whose label changed.
    sample_weight_ : ndarray of shape (n_samples,) or None
        The weights given.
    support_ : ndarray of bool of shape (n_samples,)
        All True: every row is kept.
    sample_indices_ : ndarray of int of shape (n_samples,)
    estimator_ : estimator
        As in `InfluenceSelector`.
    engine_ : str
        As in `InfluenceSelector`.
    diagnostics_ : list of dict
        What the method reports for each model.
    notes_ : list of str
        As in `InfluenceSelector`.
    task_ : "classification"
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str of shape (n_features_in_,)

    See Also
    --------
    InfluenceSelector : Removes the rows that hurt.

    Notes
    -----
    Source: section 7 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions"; Kong, Shen and Huang,
    "Resolving Training Biases via Influence-based Data Relabeling", ICLR 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import InfluenceRelabeler, make_pipeline
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> y[:20] = 1 - y[:20]  # twenty wrong labels
    >>> relabeler = InfluenceRelabeler(method="exact", relabel_rate=0.04, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), relabeler, LogisticRegression()).fit(X, y)
    >>> int(relabeler.relabeled_.sum()), int(relabeler.relabeled_[:20].sum())
    (22, 15)
    """

    _rate_name = "relabel_rate"
    _each_label = True

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Any = "ip_ensemble",
        objective: Any = "utility",
        relabel_rate: float | str = 0.05,
        cv: Any = 5,
        memory: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.objective = objective
        self.relabel_rate = relabel_rate
        self.cv = cv
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self, method: Any, estimator: Any) -> None:
        super()._check_params(method, estimator)
        if not hasattr(method, "score_labels"):
            raise TypeError(
                "Relabelling needs a method that scores a row under every label: 'ip', 'ip_ensemble', 'exact' or "
                "'cg'; "
                f"got method={self.method!r}."
            )

    def _check_target(self, y: Any) -> tuple[Any, np.ndarray | None]:
        if self.task_ == "regression":
            raise ValueError(
                "InfluenceRelabeler changes class labels, and this is a regression target. Use InfluenceSelector or "
                "InfluenceReweighter."
            )
        return super()._check_target(y)

    def _take_scores(self, scored: Scored, objective: Any, codes: np.ndarray | None) -> None:
        assert codes is not None
        rows = np.arange(len(codes))
        own = Scored(scored.by_part[rows, :, codes], scored.estimator, scored.reports)
        super()._take_scores(own, objective, codes)
        # Objectives have their own units: each counts relative to the spread of its scores, by its weight.
        spread = own.by_part.std(axis=0)
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        weights = getattr(objective, "weights", None)
        scale = scale if weights is None else scale * np.asarray(weights)
        several = scored.by_part.shape[1] > 1
        self.label_scores_ = np.einsum("ijk,j->ik", scored.by_part, scale) if several else scored.by_part[:, 0]

    def _act(self, table: Table, codes: np.ndarray | None) -> None:
        assert codes is not None
        order = np.argsort(self.scores_, kind="stable")  # ties by row order
        chosen = np.zeros(len(order), dtype=bool)
        chosen[order[: n_chosen(self.relabel_rate, self.scores_)]] = True
        new = np.where(chosen, self.label_scores_.argmax(axis=1), codes)
        for code in range(len(self.classes_)):
            rows = order[(codes == code)[order]]
            if not (new == code).any():
                new[rows[-1]] = code  # a class keeps its best row
        self.relabeled_ = new != codes
        self.y_ = _replaced(table.y, self.relabeled_, self.classes_[new])
        self.support_ = np.ones(len(codes), dtype=bool)
        self.sample_weight_ = table.sample_weight

    def fit_curate(
        self, X: Any, y: Any, *, following: Any = None, task: Task | None = None, **fit_params: Any
    ) -> tuple[Any, Any, np.ndarray | None]:
        """As in `InfluenceSelector`, but not of a torch Dataset.

        Raises
        ------
        TypeError
            If X is a torch Dataset: nets are trained on the targets that it brings, and not on new ones.
        """
        if is_dataset(X):
            raise TypeError(
                "InfluenceRelabeler changes y, but a net that is given a torch Dataset is trained on the targets that "
                "the Dataset brings, whatever y is. Give the rows as an array or a dict of arrays, and y beside it."
            )
        return super().fit_curate(X, y, following=following, task=task, **fit_params)

    def _curated(self, X: Any, y: Any) -> tuple[Any, Any, np.ndarray | None]:
        return take_rows(X, self.sample_indices_), self.y_, None

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Raise: a stock scikit-learn Pipeline calls this, and has no place for new labels.

        Parameters
        ----------
        X, y, **fit_params
            As for `fit`.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            "InfluenceRelabeler changes y, which a stock scikit-learn Pipeline cannot pass on. Use "
            "skinfluence.Pipeline, "
            "CuratedClassifier, or as_sampler() in imbalanced-learn's Pipeline."
        )


def _replaced(y: Any, where: np.ndarray, labels: np.ndarray) -> Any:
    """A copy of ``y``, in its container, with other labels in some places."""
    values = np.where(where, labels, np.asarray(y).ravel()).astype(labels.dtype)
    if hasattr(y, "iloc"):
        return type(y)(values, index=y.index, name=y.name) if y.ndim == 1 else type(y)(values, y.index, y.columns)
    if type(y).__module__.startswith("polars"):
        return type(y)(y.name, values)
    return values
