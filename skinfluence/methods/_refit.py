"""Values that refit the model: no derivatives, and the truth that the others are held to."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.special import logit
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import has_fit_parameter

from .._checkpoint import Arrays, Checkpoint
from .._progress import progress
from .._seeds import seeded, torch_seed, unseeded
from ..models import DifferentiableModel, as_model
from ..models._fitted import NO_CLASS
from ..objectives import BoundObjective
from ..operators import Rows, TrainingProblem

# So many refits are one job and one file: few enough that a run that is stopped loses little.
_REFITS_A_PART = 8


class LeaveOneOut(BaseEstimator):
    """The change of the objective when the model is refitted without the row: ``T(without) - T(with)``.

    A training row is left out; a row that the model was not fitted on (cross-fitting) is added instead, and the
    difference has the same sign. One refit a row, run by joblib. A row of weight zero scores zero. Transformers before
    the estimator stay as they are fitted.

    Parameters
    ----------
    checkpoint_dir : str or path, default=None
        A folder where finished refits are kept: a run that was stopped, by Ctrl-C or a kill, goes on where it was when
        it is started again with the same data, parameters and (if the estimator draws at random) ``random_state``.
        None keeps nothing.
    verbose : int, default=0
        Above 0 a bar on standard error shows how many groups of eight refits are done (lines, without tqdm).

    Notes
    -----
    Refits keep the estimator's parameters. Where scikit-learn adds the penalty to a *mean* loss (lasso, elastic net,
    the generalised linear models, SGD), leaving a row out then weakens the penalty's total, which the gradient methods
    keep: the two differ by a constant, and in the zero point. A CV estimator chooses its penalty anew in each refit.

    Source: Cook, "Detection of Influential Observation in Linear Regression", Technometrics, 1977.

    Examples
    --------
    >>> from skinfluence.methods import LeaveOneOut
    >>> LeaveOneOut()
    LeaveOneOut()
    """

    calibrated = True

    def __init__(self, checkpoint_dir: Any = None, verbose: int = 0) -> None:
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
        # One seed for all refits: what differs between two of them is the row, not the draw.
        refit = Refit(problem, objective, draw_seed(random_state))
        leave_out = rows is None or rows is problem.rows
        others = None if leave_out else rows
        if others is None:
            refit.require_two_of_each_class()
        elif others.user_weight is not None:
            refit.require_weights()
        if refit.random:
            warn_of_lost_checkpoints(self.checkpoint_dir, random_state)
        inputs = (refit.identity(), others, _REFITS_A_PART)
        checkpoint = Checkpoint(self.checkpoint_dir, "leave_one_out", inputs, stand_in)
        n = len(problem.rows) if others is None else len(others)
        parts = [
            (f"rows-{start:09d}", refit.objectives, (np.arange(start, min(start + _REFITS_A_PART, n)), others))
            for start in range(0, n, _REFITS_A_PART)
        ]
        base = refit.base(checkpoint)
        with progress(len(parts), f"groups of {_REFITS_A_PART} refits", self.verbose) as step:
            values = np.concatenate([part["objective"] for part in checkpoint.compute(parts, n_jobs, step)])
        return (values - base if leave_out else base - values), {"n_refits": len(values)}


def draw_seed(random_state: np.random.RandomState) -> int:
    return int(random_state.randint(np.iinfo(np.int32).max))


def warn_of_lost_checkpoints(checkpoint_dir: Any, random_state: np.random.RandomState) -> None:
    """Say so where results are kept that no other run can find again: those of a seed that nobody knows."""
    if checkpoint_dir is not None and random_state is check_random_state(None):
        warnings.warn(
            "checkpoint_dir resumes nothing with random_state=None: every run draws other seeds. Give an integer.",
            UserWarning,
            stacklevel=4,
        )


class Refit:
    """Refits of a problem's estimator on some of its prepared rows, and the objective there.

    Parameters
    ----------
    problem : TrainingProblem
    objective : BoundObjective
    seed : int
        Of every draw of every refit, so that two of them differ by their rows alone.

    Raises
    ------
    TypeError
        If the estimator cannot be fitted anew, or takes no sample weights and there are some; or the rows are not in
        memory.
    """

    def __init__(self, problem: TrainingProblem, objective: BoundObjective, seed: int) -> None:
        estimator = problem.fitted.estimator
        if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
            raise TypeError(
                f"Methods that refit need an estimator that can be cloned and fitted, got {type(estimator).__name__}. "
                "Wrap a net in skorch, or use a method that does not refit, such as 'ip'."
            )
        X = problem.rows.X
        if not (isinstance(X, np.ndarray) or sp.issparse(X) or hasattr(X, "batch")):
            raise TypeError(
                f"Methods that refit need rows in memory, got {type(X).__name__}. Load them, or use a method that does "
                "not refit, such as 'ip'."
            )
        self.problem = problem
        self.objective = objective
        self.seed = seed
        self.estimator = seeded(clone(estimator), seed)
        # What skorch fits is drawn from torch's global state, which no parameter seeds.
        self.is_net = any(cls.__module__.split(".")[0] == "skorch" for cls in type(estimator).__mro__)
        self.random = self.is_net or bool(unseeded(estimator))
        if problem.rows.user_weight is not None:
            self.require_weights()

    def require_weights(self) -> None:
        """Raise if the estimator takes no sample weights in ``fit``."""
        if not has_fit_parameter(self.estimator, "sample_weight"):
            raise TypeError(
                f"sample_weight was given, but {type(self.estimator).__name__} takes none in fit, and cannot be "
                "refitted with it. Leave it out, or choose another estimator or a method that does not refit."
            )

    def require_two_of_each_class(self) -> None:
        classes = self.problem.fitted.classes
        if classes is None:
            return
        y = self.problem.rows.y
        counts = np.bincount(y[y != NO_CLASS], minlength=len(classes))
        if (counts == 1).any():
            raise ValueError(
                f"leave_one_out needs two rows of each class; {classes[counts == 1].tolist()} have one, and leaving "
                "it out would change "
                "the classes that the model knows."
            )

    def identity(self) -> tuple[Any, ...]:
        """All that a refit's objective depends on, but for the rows that it is fitted on."""
        rows = self.problem.rows
        seed = self.seed if self.is_net else None  # others hold theirs in their parameters
        return self.estimator, seed, rows.X, rows.y, rows.user_weight, self.problem.fitted.classes, self.objective

    def base(self, checkpoint: Checkpoint) -> float:
        """The objective with all rows; of a refit with the same seed, where the fitted model was drawn with another."""
        if not self.random:
            return float(self.objective.value(self.problem.fitted.model))
        (whole,) = checkpoint.compute([("all", self.whole, (None,))])
        return float(whole["objective"])

    def whole(self, keep: np.ndarray | None) -> Arrays:
        """`value`, as a part to be kept."""
        return {"objective": np.array(self.value(keep))}

    def objectives(self, indices: np.ndarray, others: Rows | None) -> Arrays:
        """The objective without each of the training rows at ``indices``, or with each of ``others`` there added."""
        everything = np.arange(len(self.problem.rows))
        if others is None:
            values = [self.value(np.delete(everything, i)) for i in indices]
        else:
            values = [self.value(everything, others.take(indices[[k]])) for k in range(len(indices))]
        return {"objective": np.array(values, dtype=np.float64)}

    def value(self, keep: np.ndarray | None = None, added: Rows | None = None) -> float:
        """The objective of a model fitted on the training rows at ``keep`` (None: all) and those ``added``."""
        return float(self.objective.value(self.model(keep, added)))

    def model(self, keep: np.ndarray | None = None, added: Rows | None = None) -> DifferentiableModel:
        """That model."""
        rows = self.problem.rows
        everything = keep is not None and np.array_equal(keep, np.arange(len(rows)))
        rows = rows if keep is None or everything else rows.take(keep)
        X, y, weight = raw_rows(rows.X), rows.y, rows.user_weight
        if added is not None:
            if weight is not None or added.user_weight is not None:
                weight = np.concatenate([_ones_if_none(rows), _ones_if_none(added)])
            X, y = _stack(X, raw_rows(added.X)), np.concatenate([y, added.y])
        estimator = clone(self.estimator)
        with torch_seed(self.seed, estimator):
            # The weights are the user's, without class_weight, which the estimator puts on again itself.
            estimator.fit(X, self._targets(y), **({} if weight is None else {"sample_weight": weight}))
        return as_model(estimator).model

    def _targets(self, y: np.ndarray) -> np.ndarray:
        """Encoded targets as ``fit`` takes them."""
        fitted = self.problem.fitted
        if self.is_net:
            # The loss of a net is a NetLoss, a type that this floor cannot name without torch.
            targets: np.ndarray = fitted.loss.targets(y).cpu().numpy()  # type: ignore[attr-defined]
            return targets
        if fitted.classes is not None:
            return np.asarray(fitted.classes[y])
        y = y.reshape(len(y), -1)
        return y.ravel() if y.shape[1] == 1 else y


def stand_in(thing: Any) -> Any:
    """What a digest looks at in the place of objects that hold more than a refit depends on."""
    if isinstance(thing, TrainingProblem):
        return None  # its estimator and rows are in the digest by themselves; what was fitted there plays no part
    if hasattr(thing, "outputs") and hasattr(thing, "params"):
        return np.asarray(thing.params)  # a model that an objective holds, such as the one that rows are moved against
    if hasattr(thing, "rowwise"):
        return type(thing).__qualname__  # a net's own loss, which follows from the net's parameters
    if type(thing).__module__.split(".")[0] == "torch" and hasattr(thing, "numpy"):
        return thing.detach().cpu().numpy()
    return raw_rows(thing) if hasattr(thing, "batch") else thing


def raw_rows(X: Any) -> Any:
    """Prepared rows as ``fit`` takes them: arrays and matrices as they are; of a net, what its rows were made of."""
    if not hasattr(X, "batch"):
        return X
    # The rows of a torch Dataset come as one batch: their targets are held apart.
    return X.data.collated() if hasattr(X.data, "collated") else X.data


def _ones_if_none(rows: Rows) -> np.ndarray:
    return np.ones(len(rows)) if rows.user_weight is None else rows.user_weight


def _stack(A: Any, B: Any) -> Any:
    """The rows of both, in whatever they are held."""
    if isinstance(A, np.ndarray):
        return np.concatenate([A, B])
    if sp.issparse(A):
        return sp.vstack([A, B], format="csr")
    if isinstance(A, Mapping):
        return {name: _stack(part, B[name]) for name, part in A.items()}
    if isinstance(A, (list, tuple)):
        return type(A)(_stack(a, b) for a, b in zip(A, B, strict=True))
    if type(A).__module__ == "torch":
        return sys.modules["torch"].cat([A, B])
    raise TypeError(
        f"Rows in a {type(A).__name__} cannot be added to others. Give arrays, or score training rows only."
    )


class ConstantModel:
    """The same raw outputs for every row: as much of a model as an objective needs for its value.

    Parameters
    ----------
    params : ndarray of shape (K,)
        The outputs.
    """

    def __init__(self, params: np.ndarray) -> None:
        self.params = np.asarray(params, dtype=np.float64)

    @property
    def n_outputs(self) -> int:
        return len(self.params)

    def outputs(self, X: Any) -> np.ndarray:
        return np.tile(self.params.astype(X.dtype), (X.shape[0], 1))

    def outputs_and_jvps(
        self, X: Any, params: Sequence[np.ndarray], directions: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        parts = [ConstantModel(part).outputs(X) for part in (*params, *directions)]
        return parts[: len(params)], parts[len(params) :]


def class_codes(problem: TrainingProblem) -> np.ndarray | None:
    """The class of each training row ``(n,)``, or None where targets are numbers."""
    y = problem.rows.y
    if problem.fitted.classes is not None or (problem.loss.link == "softmax" and y.dtype.kind == "i" and y.ndim == 1):
        n_ignored = np.count_nonzero(y == NO_CLASS)
        if n_ignored:
            raise ValueError(
                f"{n_ignored} rows of y have the label that the net's loss ignores (ignore_index), and this method "
                "needs a class for each row. Leave them out of X and y: their scores are zero."
            )
        return y
    return None


def constant_model(problem: TrainingProblem) -> Any:
    """The prediction that knows the training targets and no features: the classes' shares, or the mean target.

    Rows count by their ``sample_weight`` and not by ``class_weight``.
    """
    rows, link, codes = problem.rows, problem.loss.link, class_codes(problem)
    weight, K = rows.user_weight, problem.fitted.model.n_outputs
    if link is None or (codes is None and rows.y.dtype.kind == "i" and link == "softmax"):
        raise TypeError(
            "The objective of no rows at all is that of a constant prediction, and what is a prediction is not known "
            f"from the loss of {type(problem.fitted.estimator).__name__}. Use 'leave_one_out', or another loss."
        )
    if codes is None:
        mean = np.average(rows.y.reshape(len(rows), -1), axis=0, weights=weight).astype(np.float64)
        return ConstantModel(mean if link == "identity" else np.log(mean))  # the mean of soft labels is of shares
    mass = np.bincount(codes, weight, minlength=max(K, 2))
    # An output that no row is labelled with, which only a net can have, counts as half a row: its log is finite.
    shares = np.where(mass > 0, mass, 0.5) / mass.sum()
    if link == "softmax":
        return ConstantModel(np.log(shares))
    return ConstantModel(logit(shares[1:] if K == 1 else shares))
