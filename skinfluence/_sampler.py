"""A curating step as imbalanced-learn sees it."""

from __future__ import annotations

from typing import Any

from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

__all__ = ["CuratorSampler"]


class CuratorSampler(BaseEstimator):
    """A curating step with nothing but ``fit_resample``, for imbalanced-learn's Pipeline.

    That Pipeline drops rows at ``fit`` by ``fit_resample``, and refuses a step that has ``transform`` as well. Curating
    steps make this view of themselves by their ``as_sampler()``.

    Parameters
    ----------
    curator : estimator
        The curating step, such as `skinfluence.InfluenceSelector`. It must select rows: imbalanced-learn's Pipeline
        has no way to pass weights on. It stays as it is; a clone of it is fitted.

    Attributes
    ----------
    curator_ : estimator
        The fitted curating step.
    sample_indices_ : ndarray of shape (n_kept,)
        The rows that were kept, as indices into those given.

    See Also
    --------
    skinfluence.Pipeline : Curation without imbalanced-learn; passes weights, the task and the following step on.

    Notes
    -----
    imbalanced-learn's Pipeline gives fit parameters to samplers by metadata routing alone; without it, it drops
    ``curate__X_val`` silently. With routing enabled, request them of the curating step, as in
    ``InfluenceSelector().set_fit_request(X_val=True, y_val=True).as_sampler()``. It transforms no validation rows: they
    must come as the earlier steps would leave them.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from skinfluence import InfluenceSelector
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> sampler = InfluenceSelector(method="ip", removal_rate=0.1, random_state=0).as_sampler()
    >>> X_kept, y_kept = sampler.fit_resample(X, y)
    >>> X_kept.shape
    (513, 30)
    """

    def __init__(self, curator: Any) -> None:
        self.curator = curator

    def fit_resample(self, X: Any, y: Any, **params: Any) -> tuple[Any, Any]:
        """Fit the curating step, and return the rows it keeps.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        **params : dict of str -> object
            Fit parameters of the curating step, such as ``X_val`` and ``y_val``.

        Returns
        -------
        X_kept : {array-like, sparse matrix, dataframe} of shape (n_kept, n_features)
            The kept rows.
        y_kept : array-like of shape (n_kept,) or (n_kept, n_outputs)
            Their targets.
        """
        if not hasattr(self.curator, "fit_curate"):
            raise TypeError(
                f"CuratorSampler wants a curating step, which has a fit_curate method, as InfluenceSelector does; "
                f"got {self.curator!r}."
            )
        if getattr(self.curator, "makes_weights", False):
            raise _weights_error(self.curator)
        if _routes_sampling() and get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit_resample", **params)["curator"]["fit"]
        curator = clone(self.curator)
        X_kept, y_kept, weight_factor = curator.fit_curate(X, y, **params)
        if weight_factor is not None:
            raise _weights_error(curator)
        self.curator_ = curator
        self.sample_indices_ = curator.sample_indices_
        return X_kept, y_kept

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell what the curating step requests for its ``fit``.

        Returns
        -------
        routing : MetadataRouter
            The requests.
        """
        router = MetadataRouter(owner=self)
        if _routes_sampling():
            mapping = MethodMapping().add(caller="fit_resample", callee="fit")
            router.add(curator=self.curator, method_mapping=mapping)
        return router


def _routes_sampling() -> bool:
    """Tell whether metadata can be routed to ``fit_resample``: imbalanced-learn, once imported, makes it known."""
    try:
        MethodMapping().add(caller="fit_resample", callee="fit")
    except ValueError:
        return False
    return True


def _weights_error(curator: Any) -> TypeError:
    return TypeError(
        f"{type(curator).__name__} puts weights on rows, and a sampler can only return rows. "
        f"Use skinfluence.Pipeline, CuratedClassifier or CuratedRegressor, which pass the weights on."
    )
