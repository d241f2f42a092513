"""How a net is differentiated: a wrapper that says it, around a skorch net, an MLP of scikit-learn or a bare module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted


def _net_has(name: str) -> Callable[[Callable[..., Any]], Any]:
    def check(self: Any) -> bool:
        getattr(self._fitted_net(), name)
        return True

    decorator: Callable[[Callable[..., Any]], Any] = available_if(check)
    return decorator


class DifferentiableNet(MetaEstimatorMixin, BaseEstimator):
    """A net, and how influence is taken through it.

    A net needs this wrapper only where the defaults will not do. It goes wherever the net would: into
    `influence_scores`, or into a curator's ``estimator``, where its parameters can be searched over.

    Parameters
    ----------
    net : skorch net, MLPClassifier, MLPRegressor or tuple (module, loss)
        The net; a tuple is for `influence_scores` alone, which refits nothing. It is asked as ``module(X)``,
        ``module(**X)`` if X is a dict, ``module(*X)`` if it is a tuple or list; ``loss(output, target)`` is a mean over
        rows, or one number a row.
    parameters : "all", "last_layer", str, list of str or callable, default="all"
        The parameters that gradients are taken in: all that have ``requires_grad``; those of the last module that has
        any; those whose name a regular expression is found in; those named; or those for which ``callable(name,
        tensor)`` is true. Frozen parameters stay out. One that modules share has a name in each of them; any will do,
        and its gradient is that of all its uses. Where all are of one layer and nothing comes after it, methods with
        an inverse Hessian run what comes before it once, and keep what goes into the layer if that takes no more than a
        quarter of ``sklearn.get_config()["working_memory"]``; a plain linear layer on the CPU is then multiplied with
        as linear models are, whatever ``block_rows`` is, if no ``engine`` is named.
    curvature : {"gauss_newton", "hessian"}, default="gauss_newton"
        What methods with an inverse Hessian invert. The Gauss-Newton matrix has no negative curvature.
    weight_decay : "optimizer" or float, default="optimizer"
        The L2 penalty in that matrix; "optimizer" is the ``weight_decay`` that the net was trained with (for MLPs their
        ``alpha``). It is no part of a row's gradient.
    dtype : {"float32", "float64", "bfloat16", "float16"} or None, default=None
        What the net computes in; None is as it is.
    engine : {"auto", "forward", "forward_math", "double_backward", "per_row", "row_loop"}, default="auto"
        How derivatives along a direction are taken. "auto" is the first of them that agrees with backward passes of
        single rows.
    block_rows : int or None, default=None
        Rows that go through the net at once; None finds a number from the widest activation.
    compile : bool, default=False
        Compile the pass that takes derivatives, by `torch.compile`: worth its seconds of set-up for many rows, or many
        nets of the same make, which share what was compiled. It is checked as the engines are.

    Attributes
    ----------
    net_ : the fitted net, after `fit`

    Notes
    -----
    The net is copied, put into evaluation mode, and left as it was. Batch normalisation takes its running statistics,
    dropout does nothing.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skinfluence import influence_scores
    >>> from skinfluence.nets import DifferentiableNet
    >>> X, y = make_moons(noise=0.2, random_state=0)
    >>> mlp = MLPClassifier(hidden_layer_sizes=8, solver="lbfgs", alpha=0.1, random_state=0).fit(X, y)
    >>> influence_scores(DifferentiableNet(mlp, parameters="last_layer"), X, y).shape
    (100,)
    """

    def __init__(
        self,
        net: Any,
        *,
        parameters: Any = "all",
        curvature: str = "gauss_newton",
        weight_decay: Any = "optimizer",
        dtype: str | None = None,
        engine: str = "auto",
        block_rows: int | None = None,
        compile: bool = False,
    ) -> None:
        self.net = net
        self.parameters = parameters
        self.curvature = curvature
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.engine = engine
        self.block_rows = block_rows
        self.compile = compile

    def fit(self, X: Any, y: Any, **fit_params: Any) -> DifferentiableNet:
        """Fit a clone of the net.

        Parameters
        ----------
        X, y : as the net takes them
        **fit_params : dict
            Passed to the net's ``fit``.

        Returns
        -------
        self : object
        """
        if isinstance(self.net, tuple):
            raise TypeError("A bare (module, loss) cannot be fitted here: train it, and give it to influence_scores.")
        self.net_ = clone(self.net).fit(X, y, **fit_params)
        return self

    def _fitted_net(self) -> Any:
        return self.net_ if hasattr(self, "net_") else self.net

    def options(self) -> dict[str, Any]:
        """The choices, without the net."""
        return {name: value for name, value in self.get_params(deep=False).items() if name != "net"}

    @_net_has("predict")
    def predict(self, X: Any) -> Any:
        """What the fitted net predicts."""
        return self._fitted_net().predict(X)

    @_net_has("predict_proba")
    def predict_proba(self, X: Any) -> Any:
        """The fitted net's class probabilities."""
        return self._fitted_net().predict_proba(X)

    @_net_has("score")
    def score(self, X: Any, y: Any) -> Any:
        """The fitted net's score."""
        return self._fitted_net().score(X, y)

    @property
    def classes_(self) -> Any:
        """The fitted net's classes."""
        return self._fitted_net().classes_

    def __sklearn_is_fitted__(self) -> bool:
        if isinstance(self.net, tuple):
            return True
        check_is_fitted(self._fitted_net())
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = getattr(self.net, "__sklearn_tags__", None)
        if inner is not None:
            own = inner()
            tags.estimator_type = own.estimator_type
            tags.classifier_tags, tags.regressor_tags = own.classifier_tags, own.regressor_tags
        return tags
