"""`InfluenceReweighter`: weights rows by what they do for the model."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.utils import check_scalar

from ._crossfit import Table
from ._curator import Curator
from ._rows import take_rows

_FURTHEST = 2.0


class InfluenceReweighter(Curator):
    """Weight the training rows by their influence: ``softmax(score / temperature)``, with mean 1.

    In `skinfluence.Pipeline`, `CuratedClassifier` and `CuratedRegressor` the weights multiply the user's own and reach
    the final step's ``sample_weight``; a final step that takes none raises before anything is fitted. In a stock
    scikit-learn Pipeline the rows are re-drawn within their class in proportion to their weights.

    Parameters
    ----------
    estimator : estimator, "final" or None, default=None
        The model through which influence is taken; see `InfluenceSelector`.
    method : str or method object, default="ip_ensemble"
        How influence is estimated; see `skinfluence.methods`.
    objective : str or objective object, default="utility"
        What counts as harm; see `skinfluence.objectives`.
    temperature : float, default=1.0
        The higher, the more alike the weights.
    scale : {"standard", "raw"}, default="standard"
        "standard" divides the scores by their standard deviation first, so that the temperature means the same whatever
        the method and the number of rows, and takes what is more than 2 of them away from zero as 2: scores have heavy
        tails, and without it a few rows would take all the weight. "raw" is the paper's: the exponent is the score
        itself, which on most tables is so small that all weights are almost 1.
    cv : int, splitter or None, default=5
        Folds for cross-fitting, where no validation rows are given. None: one fit, scored in-sample.
    on_fit_transform : {"redraw", "raise"}, default="redraw"
        What to do in a stock Pipeline.
    memory : str, joblib.Memory or None, default=None
        Cache of the scores, apart from ``temperature`` and ``scale``. Needs an integer ``random_state``.
    n_jobs : int, default=None
        Folds fitted at the same time.
    random_state : int, RandomState instance or None, default=None
        Seed of folds, dropout masks and re-draws, and of the estimator's own ``random_state=None``.
    verbose : int, default=0
        Above 0 a line is printed when the rows are scored, and a bar on standard error shows how many folds are done
        (lines, without tqdm). Methods that refit have a ``verbose`` of their own, whose bars are drawn below.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,)
        Influence of each row. Negative: the row hurts.
    sample_weight_ : ndarray of shape (n_samples,)
        The weights: the softmax times the user's ``sample_weight``.
    effective_sample_size_ : float
        ``(Σ w)² / Σ w²`` of ``sample_weight_`` (Kish, "Survey Sampling", 1965): the number of rows when all weights are
        alike.
    support_ : ndarray of bool of shape (n_samples,)
        All True: every row is kept.
    sample_indices_ : ndarray of int of shape (n_samples,)
    estimator_ : estimator
        As in `InfluenceSelector`; left out too where the estimator takes no ``sample_weight``, as skorch's nets.
    engine_ : str
        As in `InfluenceSelector`.
    diagnostics_ : list of dict
        What the method reports for each model.
    notes_ : list of str
        As in `InfluenceSelector`.
    task_ : {"classification", "regression"}
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str of shape (n_features_in_,)

    See Also
    --------
    InfluenceSelector : Removes the rows that hurt.

    Notes
    -----
    Source: section 7 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions"; Thakkar et al.,
    "Self-Influence Guided Data Reweighting for Language Model Pre-training", EMNLP 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import InfluenceReweighter, make_pipeline
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> y[:20] = 1 - y[:20]  # twenty wrong labels
    >>> pipe = make_pipeline(InfluenceReweighter(random_state=0), LogisticRegression(max_iter=5000)).fit(X, y)
    >>> weight = pipe[0].sample_weight_
    >>> print(f"{weight.mean():.2f} {weight[:20].mean():.2f} {weight[20:].mean():.2f}")
    1.00 0.24 1.03
    """

    makes_weights = True

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Any = "ip_ensemble",
        objective: Any = "utility",
        temperature: float = 1.0,
        scale: str = "standard",
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
        self.temperature = temperature
        self.scale = scale
        self.cv = cv
        self.on_fit_transform = on_fit_transform
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self, method: Any, estimator: Any) -> None:
        super()._check_params(method, estimator)
        check_scalar(self.temperature, "temperature", Real, min_val=0, include_boundaries="neither")
        if self.scale not in ("standard", "raw"):
            raise ValueError(f"scale must be 'standard' or 'raw', got {self.scale!r}.")

    def _act(self, table: Table, codes: np.ndarray | None) -> None:
        spread = float(np.std(self.scores_)) if self.scale == "standard" else 1.0
        exponents = self.scores_ / spread if spread > 0 else np.zeros_like(self.scores_)
        if self.scale == "standard":
            exponents = np.clip(exponents, -_FURTHEST, _FURTHEST)
        exponents /= self.temperature
        self._factor = softmax(exponents) * len(exponents)
        self.support_ = np.ones(len(exponents), dtype=bool)
        weight = self._factor if table.sample_weight is None else self._factor * table.sample_weight
        self.sample_weight_ = weight
        relative = weight / weight.max()  # squares of the largest weights would overflow
        self.effective_sample_size_ = float(relative.sum() ** 2 / (relative @ relative))

    def _row_factors(self) -> np.ndarray:
        return self._factor

    def _curated(self, X: Any, y: Any) -> tuple[Any, Any, np.ndarray | None]:
        return take_rows(X, self.sample_indices_), take_rows(y, self.sample_indices_), self._factor
