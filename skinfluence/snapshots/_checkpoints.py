"""Snapshots that were kept while a model was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..models import as_model
from ..operators import TrainingProblem
from ._base import Snapshot


@dataclass(frozen=True, eq=False)
class History:
    """The checkpoints of a training run.

    Attributes
    ----------
    params : tuple of ndarray of shape (p,), or of state dicts or paths of their files
        The parameters at each checkpoint, in order.
    weights : tuple of float
        The learning rate that each stands for: that of all epochs since the one before it.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.snapshots import History
    >>> History(params=(np.zeros(3), np.ones(3)), weights=(0.1, 0.05))
    History(2 checkpoints)
    """

    params: tuple[Any, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.params)

    def __repr__(self) -> str:
        return f"History({len(self)} checkpoints)"


class Checkpoints(BaseEstimator):
    """Parameters that were kept while the model was trained, weighted by learning rate.

    Parameters
    ----------
    params : History, or list of ndarray of shape (p,), of fitted estimators, of state dicts or of paths of their files
        The checkpoints. Vectors are laid out as the fitted model's own (``as_model(estimator).model.params``);
        estimators are of the kind that is scored, fitted on the same classes. `record_partial_fit` makes a `History`.
    weights : array-like of shape (n_checkpoints,), default=None
        The learning rate at each, zero or more; they are used as they are, not brought to a sum of one. None: those of
        the `History`, and for a list the same for all, ``1 / n_checkpoints``.

    Raises
    ------
    TypeError
        If a checkpoint is neither a vector nor a fitted estimator that can be differentiated.
    ValueError
        If there are none, or a vector has another length than the model's or is not finite, or the weights are not as
        they must be.

    Notes
    -----
    Source: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020, section 3.2
    (TracInCP).

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.snapshots import Checkpoints
    >>> start, end = np.zeros(3), np.array([0.4, -0.1, 0.2])
    >>> method = GradientMethod(snapshots=Checkpoints([start, end], weights=[0.1, 0.05]))
    """

    def __init__(self, params: History | Sequence[Any], weights: Sequence[float] | np.ndarray | None = None) -> None:
        self.params = params
        self.weights = weights

    def __sklearn_clone__(self) -> Checkpoints:
        # The checkpoints are data: the default would replace fitted estimators in the list by unfitted ones.
        return type(self)(self.params, self.weights)

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> list[Snapshot]:
        given = self.params.params if isinstance(self.params, History) else self.params
        if not isinstance(given, (list, tuple)):
            raise TypeError(
                "Checkpoints needs a History, or a list of parameter vectors or fitted estimators, got "
                f"{type(given).__name__}."
            )
        if not given:
            raise ValueError("Checkpoints needs at least one checkpoint, got none.")
        vectors = [_as_vector(checkpoint, i, problem) for i, checkpoint in enumerate(given)]
        return list(zip(self._weights(len(vectors)), vectors, strict=True))

    def _weights(self, n: int) -> list[float]:
        if self.weights is None:
            return list(self.params.weights) if isinstance(self.params, History) else [1.0 / n] * n
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (n,):
            raise ValueError(f"weights must have one entry for each of the {n} checkpoints, got shape {weights.shape}.")
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError(f"weights must be finite, zero or more and not all zero, got {weights.tolist()}.")
        return weights.tolist()


def recorded_history(problem: TrainingProblem) -> History | None:
    """The checkpoints that a `CheckpointRecorder` among a net's callbacks has kept, or None."""
    for _, callback in getattr(problem.fitted.estimator, "callbacks_", None) or []:
        if isinstance(getattr(callback, "history_", None), History):
            found: History = callback.history_
            return found
    return None


def _as_vector(checkpoint: Any, i: int, problem: TrainingProblem) -> np.ndarray:
    if isinstance(checkpoint, (Mapping, str, os.PathLike)):
        reader = getattr(problem.fitted.model, "vector_of", None)
        if reader is None:
            raise TypeError(
                f"Checkpoint {i} is a state dict or a path, which a net's parameters are read from, and "
                f"{type(problem.fitted.estimator).__name__} is none."
            )
        checkpoint = reader(checkpoint)
    if hasattr(checkpoint, "fit"):
        fitted = as_model(checkpoint)
        if fitted.transformers is not None:
            raise TypeError(
                f"Checkpoint {i} is a Pipeline; the rows are transformed by the scored model's own steps. Give its "
                "last step (pipe[-1])."
            )
        ours = problem.fitted.classes
        if ours is not None and (fitted.classes is None or not np.array_equal(fitted.classes, ours)):
            theirs = None if fitted.classes is None else fitted.classes.tolist()
            raise ValueError(
                f"Checkpoint {i} was fitted on other classes: wanted {ours.tolist()}, got {theirs}. Its outputs mean "
                "something else."
            )
        checkpoint = fitted.model.params
    try:
        vector = np.array(checkpoint, dtype=np.float64)  # a copy: the caller's may go on being trained
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Checkpoint {i} must be a vector of parameters or a fitted estimator, got {type(checkpoint).__name__}."
        ) from error
    if vector.shape != problem.params.shape:
        raise ValueError(
            f"Checkpoint {i} must have the shape of the fitted model's parameters, {problem.params.shape}, got "
            f"{vector.shape}."
        )
    if not np.isfinite(vector).all():
        raise ValueError(f"Checkpoint {i} is not finite: the training diverged there. Leave it out.")
    return vector
