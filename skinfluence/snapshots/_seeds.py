"""Snapshots from fitting anew."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_scalar
from sklearn.utils.parallel import delayed

from .._parallel import run_all
from .._progress import progress
from .._seeds import torch_seed
from ..models import as_model
from ..operators import TrainingProblem
from ._base import Snapshot


class Seeds(BaseEstimator):
    """Members from refits of the estimator with other seeds, on the training rows.

    Every ``random_state`` in the estimator is replaced, the fixed ones too; a skorch net, which has none, is seeded
    through torch. All else stays as it is. Transformers before the estimator stay as they are fitted. With ``n_jobs``
    several are fitted at the same time.

    Parameters
    ----------
    n_members : int, default=5
        Number of refits.
    verbose : int, default=0
        Above 0 a bar on standard error shows how many are done (lines, without tqdm).

    Raises
    ------
    TypeError
        If the estimator has no ``random_state`` and is no skorch net.
    ValueError
        If its fit does not depend on the seed, as that of most convex solvers: all members would be one model. `SGD`
        and `Dropout` make members of any model.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.snapshots import Seeds
    >>> method = GradientMethod(snapshots=Seeds(n_members=3))
    """

    def __init__(self, n_members: int = 5, verbose: int = 0) -> None:
        self.n_members = n_members
        self.verbose = verbose

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> list[Snapshot]:
        check_scalar(self.n_members, "n_members", Integral, min_val=1)
        estimator = problem.fitted.estimator
        names = []
        if hasattr(estimator, "get_params") and hasattr(estimator, "fit"):
            names = sorted(name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "random_state")
        if not names and not _is_skorch(estimator):
            raise TypeError(
                f"Seeds needs an estimator with a random_state, and {type(estimator).__name__} has none. Fit the "
                "members yourself, and give their parameters or the fitted estimators to Checkpoints."
            )
        seeds = random_state.randint(np.iinfo(np.int32).max, size=(self.n_members, max(len(names), 1))).tolist()
        with progress(len(seeds), "refits", self.verbose) as step:
            members = run_all((delayed(_refit)(problem, names, row) for row in seeds), n_jobs, step)
        _require_different([problem.params, *members] if len(members) == 1 else members, estimator)
        return [(1.0 / self.n_members, params) for params in members]


def _is_skorch(estimator: Any) -> bool:
    return any(cls.__module__.split(".")[0] == "skorch" for cls in type(estimator).__mro__)


def _refit(problem: TrainingProblem, names: list[str], seeds: list[int]) -> np.ndarray:
    """The parameters of a refit on the problem's prepared rows."""
    fitted, rows = problem.fitted, problem.rows
    X = rows.X
    if hasattr(X, "batch"):  # a net's rows: what they were made of
        X = X.data.collated() if hasattr(X.data, "collated") else X.data
    # Weights without class_weight, which the estimator puts on again.
    weight = {} if rows.user_weight is None else {"sample_weight": rows.user_weight}
    estimator = clone(fitted.estimator).set_params(**dict(zip(names, seeds, strict=False)))
    with torch_seed(seeds[0], estimator):
        estimator.fit(X, _targets(problem), **weight)
    return np.asarray(as_model(estimator).model.params)


def _targets(problem: TrainingProblem) -> np.ndarray:
    """The training targets as ``fit`` takes them."""
    fitted, y = problem.fitted, problem.rows.y
    if _is_skorch(fitted.estimator):
        loss: Any = fitted.loss
        return np.asarray(loss.targets(y).cpu().numpy())
    if fitted.classes is not None:
        return np.asarray(fitted.classes[y])
    return y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y


def _require_different(members: list[np.ndarray], estimator: Any) -> None:
    size = max(float(np.abs(members[0]).max(initial=0.0)), np.finfo(np.float64).tiny)
    if all(float(np.abs(member - members[0]).max(initial=0.0)) <= 1e-9 * size for member in members[1:]):
        raise ValueError(
            f"The fit of this {type(estimator).__name__} does not depend on the seed: all seeds give the same "
            "model. Use SGD(...) or Dropout(...), which make different members of any model."
        )
