"""An objective of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..models import DifferentiableModel
from ..operators import Rows, TrainingProblem, outputs_by_block, pull_back

_N_CHECKED = 16
_STEP = 1e-5
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class UserObjective:
    """A user's function of all outputs on its rows."""

    problem: TrainingProblem
    rows: Rows
    targets: np.ndarray
    function: Callable[..., tuple[Any, Any]]
    extra: dict[str, np.ndarray | None]

    def value(self, model: DifferentiableModel) -> float:
        """The function's value."""
        return self.call(self.outputs(model, [model.params])[0])[0]

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Its gradient ``(p,)`` at each parameter vector, in two passes: outputs first, then their cotangents back."""
        slopes = [self.call(F)[1] for F in self.outputs(self.problem.fitted.model, params)]

        def cotangents(F: np.ndarray, at: slice, member: int) -> np.ndarray:
            return slopes[member][at].astype(F.dtype)

        return pull_back(self.problem.fitted, self.rows, params, cotangents)

    def outputs(self, model: DifferentiableModel, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Raw outputs ``(n, K)`` of all rows at each of ``params``, in float64."""
        everything = [np.empty((len(self.rows), model.n_outputs)) for _ in params]
        for at, Fs in outputs_by_block(model, self.rows, params):
            for F, into in zip(Fs, everything, strict=True):
                into[at] = F
        return everything

    def call(self, F: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient ``(n, K)`` at raw outputs ``(n, K)``, their shapes checked."""
        returned = self.function(F, self.targets, **self.extra)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"The objective's function must return a tuple (value, gradient), got {type(returned).__name__}."
            )
        value, gradient = np.asarray(returned[0], dtype=np.float64), np.asarray(returned[1], dtype=np.float64)
        if value.ndim != 0 or gradient.shape != F.shape:
            raise ValueError(
                f"The objective's function must return a single number and a gradient of shape {F.shape}, got shapes "
                f"{value.shape} and {gradient.shape}. Objectives that are means over rows are Utility(loss=function)."
            )
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            raise ValueError(
                "The objective's function must return finite numbers, got a value or gradient that is not."
            )
        return float(value), gradient

    def check_gradient(self) -> None:
        """Compare the gradient at the fitted parameters with central differences of the value."""
        (F,) = self.outputs(self.problem.fitted.model, [self.problem.params])
        value, gradient = self.call(F.copy())
        rng = np.random.RandomState(0)
        moves = [("all outputs at once", _signs(F, rng))]
        largest = np.abs(gradient).ravel().argsort()[::-1][: _N_CHECKED // 2]
        some = rng.permutation(F.size)[: _N_CHECKED // 2]
        for entry in dict.fromkeys([*largest.tolist(), *some.tolist()]):
            move = np.zeros_like(F)
            at = np.unravel_index(entry, F.shape)
            move[at] = 1.0
            moves.append((f"output {int(at[1])} of row {int(at[0])}", move))
        # What a difference of two rounded values can be off by, beside the tolerance.
        rounding = 8 * np.finfo(np.float64).eps * abs(value) / _STEP
        for where, move in moves:
            step = _STEP * max(1.0, float(np.abs(F[move != 0]).mean()))
            differences = (self.call(F + step * move)[0] - self.call(F - step * move)[0]) / (2 * step)
            stated = float((gradient * move).sum())
            scale = max(abs(differences), abs(stated), float(np.abs(gradient).max()))
            if abs(differences - stated) > _TOLERANCE * scale + rounding:
                raise ValueError(
                    f"The gradient of the objective's function is not the derivative of its value: along {where} it "
                    f"says {stated:.6g}, and finite differences say {differences:.6g}. Correct the gradient, or leave "
                    "check_gradient out if the function has a kink there."
                )


def _signs(F: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return np.where(rng.random_sample(F.shape) < 0.5, -1.0, 1.0)


class CustomObjective(BaseEstimator):
    """An objective given as a function of all raw outputs, which returns its value and its gradient.

    For what is not a mean over rows: a quantile, a rank statistic, a ratio. A mean over rows is shorter as
    ``Utility(loss=function)``.

    Parameters
    ----------
    function : callable
        ``function(outputs, targets) -> (value, gradient)``. ``outputs`` are the raw outputs of all rows ``(n, K)``,
        in float64: scores before any link, with K = 1 for two classes and for one target. ``targets`` are class codes
        ``(n,)`` (places in the estimator's ``classes_``) or floats ``(n, K)``. ``value`` is a number, *lower is
        better*; ``gradient`` its derivative in the outputs ``(n, K)``. If the function has a parameter named
        ``sample_weight``, it gets the weights ``(n,)`` of the rows or None.
    check_gradient : bool, default=False
        Hold the gradient to finite differences whenever the objective is bound to rows, and raise if it is off: at the
        fitted model, for a sample of outputs and for all of them at once. It calls the function some thirty times.

    Notes
    -----
    All outputs are in memory at once, ``(n, K)`` for each snapshot; gradients in the parameters are streamed as
    everywhere. Pickling (``n_jobs``, ``memory``) needs a function that can be pickled, one at the top of a module.

    Examples
    --------
    The smallest margin, smoothed, is to be large:

    >>> import numpy as np
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.objectives import CustomObjective
    >>> def smallest_margin(outputs, targets):
    ...     side = 2.0 * targets[:, None] - 1
    ...     powers = np.exp(-side * outputs)
    ...     return np.log(powers.sum()), -side * powers / powers.sum()
    >>> X, y = make_classification(random_state=0)
    >>> clf = LogisticRegression().fit(X, y)
    >>> objective = CustomObjective(smallest_margin, check_gradient=True)
    >>> influence_scores(clf, X, y, objective=objective).shape
    (100,)
    """

    uses_groups = False

    def __init__(self, function: Callable[..., tuple[Any, Any]], check_gradient: bool = False) -> None:
        self.function = function
        self.check_gradient = check_gradient

    def bind(
        self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None
    ) -> UserObjective:
        """The objective on ``rows``; whether their labels are ``trusted`` is the function's business.

        Raises
        ------
        TypeError
            If ``function`` cannot be called.
        ValueError
            If the rows have sample weights that the function does not take, or, with ``check_gradient``, its gradient
            is not the derivative of its value.
        """
        if not callable(self.function):
            raise TypeError(
                "CustomObjective needs a function(outputs, targets) -> (value, gradient), got "
                f"{type(self.function).__name__}."
            )
        extra = {"sample_weight": rows.user_weight} if _takes_weight(self.function) else {}
        if rows.user_weight is not None and not extra:
            raise ValueError(
                "The rows have sample weights, and the objective's function takes none. Give it a parameter "
                "sample_weight, which gets them ((n,) or None) and may ignore them."
            )
        # Class codes are stored in as few bytes as they need, and would overflow in a user's arithmetic.
        targets = rows.y.astype(np.intp if rows.y.dtype.kind == "i" else np.float64)
        bound = UserObjective(problem, rows, targets, self.function, extra)
        if self.check_gradient:
            bound.check_gradient()
        return bound


def _takes_weight(function: Callable[..., Any]) -> bool:
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except ValueError:  # some built-in functions tell nothing of their parameters
        return False
