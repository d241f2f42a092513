"""What can be differentiated, and `as_model`, which finds it in a fitted estimator."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..nets import DifferentiableNet
from ._families import FAMILIES, family_of
from ._fitted import FittedModel, Penalty
from ._host import hosted
from ._protocol import DifferentiableModel
from .linear import LinearModel

_MLPS = ("MLPClassifier", "MLPRegressor")

__all__ = ["DifferentiableModel", "FittedModel", "LinearModel", "Penalty", "as_model", "can_model"]


def as_model(estimator: Any) -> FittedModel:
    """The differentiable model, loss and penalty of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted linear estimator of scikit-learn, or a fitted Pipeline whose last step is one; the transformers before
        it are applied as they are.

    Returns
    -------
    FittedModel

    Raises
    ------
    TypeError
        If the estimator is of no supported family; the message names those that are.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence.models import as_model
    >>> X, y = load_iris(return_X_y=True)
    >>> fitted = as_model(LogisticRegression(max_iter=500).fit(X, y))
    >>> fitted.task, fitted.model.params.shape
    ('classification', (15,))
    """
    transformers, estimator = _split(estimator)
    family = family_of(estimator)
    if family is None and is_net(estimator):
        fitted = _as_net(estimator)
        return fitted if transformers is None else replace(fitted, transformers=transformers)
    if family is None:
        raise TypeError(
            f"Influence needs a model that it can differentiate; got {type(estimator).__name__}. Supported are "
            f"{', '.join(FAMILIES)}; MLPClassifier, MLPRegressor, skorch nets and a tuple (torch module, loss), which "
            "need the extra skinfluence[torch]; and a Pipeline that ends in one of them."
        )
    if not hasattr(estimator, "coef_"):  # what every family is read off
        check_is_fitted(estimator)
    fitted = family(hosted(estimator))
    return fitted if transformers is None else replace(fitted, transformers=transformers)


def can_model(estimator: Any) -> bool:
    """Whether `as_model` has a family for the estimator, fitted or not.

    Examples
    --------
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence.models import can_model
    >>> can_model(Ridge()), can_model(RandomForestClassifier())
    (True, False)
    """
    final = _split(estimator)[1]
    return is_net(final) or family_of(final) is not None


def is_net(estimator: Any) -> bool:
    """Whether it takes torch to differentiate it, fitted or not: told by names, so that torch need not be there."""
    if isinstance(estimator, DifferentiableNet):
        return is_net(estimator._fitted_net())
    if isinstance(estimator, tuple):
        return len(estimator) == 2 and hasattr(estimator[0], "named_parameters")
    return any(
        (cls.__name__ == "NeuralNet" and cls.__module__.startswith("skorch."))
        or (cls.__name__ in _MLPS and cls.__module__.startswith("sklearn.neural_network."))
        for cls in type(estimator).__mro__
    )


def ignored_label(estimator: Any) -> int | None:
    """The label whose rows the criterion of a skorch net, fitted or not, ignores; None where there is none."""
    net = _split(estimator)[1]
    net = net._fitted_net() if isinstance(net, DifferentiableNet) else net
    criterion = getattr(net, "criterion", None)
    if criterion is None or not is_net(net):
        return None
    found = vars(net).get("criterion__ignore_index", getattr(criterion, "ignore_index", None))
    if found is None and callable(criterion):
        parameter = signature(criterion).parameters.get("ignore_index")
        found = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return None if found is None else int(found)


def _as_net(estimator: Any) -> FittedModel:
    options: dict[str, Any] = {}
    if isinstance(estimator, DifferentiableNet):
        options, estimator = estimator.options(), estimator._fitted_net()
    if not isinstance(estimator, tuple):
        check_is_fitted(estimator)
    try:
        from . import nets
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"Influence through {type(estimator).__name__} needs torch: pip install 'skinfluence[torch]'."
        ) from error
    checked = nets.NetOptions(**options)
    if isinstance(estimator, tuple):
        return nets.from_module(estimator, checked)
    mlp = any(cls.__name__ in _MLPS for cls in type(estimator).__mro__)
    return nets.from_mlp(estimator, checked) if mlp else nets.from_skorch(estimator, checked)


def _split(estimator: Any) -> tuple[Any, Any]:
    """Transformers (or None) and final estimator; a `FrozenEstimator` is what it holds."""
    if type(estimator).__name__ == "FrozenEstimator":
        return _split(estimator.estimator)
    if not isinstance(estimator, Pipeline):
        return None, estimator
    if len(estimator.steps) == 0:
        raise ValueError("The Pipeline has no steps.")
    if any(hasattr(step, "fit_curate") for _, step in estimator.steps):
        raise TypeError(
            "This Pipeline curates: its model was fitted on other rows than the Pipeline was given. Take the "
            "influence through "
            "its last step (pipe[-1]) and the rows that were kept (pipe.sample_indices_)."
        )
    head = estimator[:-1] if len(estimator.steps) > 1 else None
    inner, final = _split(estimator.steps[-1][1])
    if inner is None or head is None:
        return head or inner, final
    return Pipeline([("head", head), ("inner", inner)]), final
