"""Small curators that keep the contract of a curating step, for the tests of the places where curators live."""

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from skinfluence._rows import count_rows, take_rows
from skinfluence._sampler import CuratorSampler


class Stub(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base: decides by `_decide`, and remembers what it was given as ``seen_``."""

    def fit(
        self,
        X,
        y,
        *,
        sample_weight=None,
        X_val=None,
        y_val=None,
        sensitive_features=None,
        sensitive_features_val=None,
    ):
        self.fit_curate(
            X,
            y,
            sample_weight=sample_weight,
            X_val=X_val,
            y_val=y_val,
            sensitive_features=sensitive_features,
            sensitive_features_val=sensitive_features_val,
        )
        return self

    def fit_curate(self, X, y, *, following=None, task=None, **fit_params):
        array = check_array(X, accept_sparse="csr")
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        self.n_features_in_ = array.shape[1]
        self.seen_ = {"X": X, "y": y, "following": following, "task": task, **fit_params}
        self.support_ = self._decide(array, np.asarray(y))
        self.sample_indices_ = np.flatnonzero(self.support_)
        factor = self._factor(array)
        return (
            take_rows(X, self.sample_indices_),
            take_rows(y, self.sample_indices_),
            None if factor is None else factor[self.sample_indices_],
        )

    def fit_transform(self, X, y=None, **fit_params):
        self.fit(X, y, **fit_params)
        y = np.asarray(y)
        rows = np.arange(count_rows(X))
        for row in np.flatnonzero(~self.support_):
            rows[row] = np.flatnonzero(self.support_ & (y == y[row]))[0]
        return take_rows(X, rows)

    def transform(self, X):
        check_is_fitted(self)
        return X if hasattr(X, "shape") else np.asarray(X)

    def get_support(self, indices=False):
        return self.sample_indices_ if indices else self.support_

    def as_sampler(self):
        return CuratorSampler(self)

    def _decide(self, X, y):
        return np.ones(len(y), dtype=bool)

    def _factor(self, X):
        return None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


def _first_column(X):
    return X[:, [0]].toarray().ravel() if sparse.issparse(X) else X[:, 0]


class SignCurator(Stub):
    """Drops rows that are in the upper half of the labels although their first feature is below `threshold`."""

    def __init__(self, threshold=-0.5):
        self.threshold = threshold

    def _decide(self, X, y):
        labels, codes = np.unique(y, return_inverse=True)
        kept = ~((codes.ravel() >= len(labels) / 2) & (_first_column(X) < self.threshold))
        for code in range(len(labels)):  # never empties a class
            if not kept[codes.ravel() == code].any():
                kept |= codes.ravel() == code
        return kept


class RandomCurator(Stub):
    """Drops a random share of the rows."""

    def __init__(self, rate=0.2, random_state=0):
        self.rate = rate
        self.random_state = random_state

    def _decide(self, X, y):
        return np.random.RandomState(self.random_state).uniform(size=len(y)) >= self.rate


class WeightCurator(RandomCurator):
    """Drops a random share of the rows, and weighs the others by their first feature."""

    makes_weights = True

    def _factor(self, X):
        return 1 + np.abs(_first_column(X))


class SecretWeightCurator(WeightCurator):
    """Does the same, but does not say so before it is fitted."""

    makes_weights = False
