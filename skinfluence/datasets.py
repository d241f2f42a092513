"""Drawn tables some of whose labels are wrong, and it is known which."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.datasets import make_blobs, make_moons
from sklearn.utils import check_random_state, check_scalar

__all__ = ["make_noisy_blobs", "make_noisy_moons"]

_CENTRES = [[-2.0, -2.0], [2.0, 2.0]]
_IN_GROUP = (0.2, 0.8)  # how likely a row of each class is in the sensitive group


def make_noisy_blobs(
    n_samples: int = 150,
    *,
    n_clean: int = 0,
    flip_share: float = 0.1,
    noise: float = 1.0,
    return_groups: bool = False,
    random_state: Any = None,
) -> tuple[np.ndarray, ...]:
    """Two blobs of rows, one a class, a share of them under the other class's label.

    Parameters
    ----------
    n_samples : int, default=150
        Number of rows of which a share gets the wrong label.
    n_clean : int, default=0
        Number of further rows, which come last and keep their labels: to validate or to test on.
    flip_share : float in [0, 1], default=0.1
        Share of the ``n_samples`` rows whose label is flipped, whatever their class.
    noise : float, default=1.0
        Standard deviation of a blob in each feature. The centres are (-2, -2) and (2, 2): at 1 the classes hardly
        overlap, at 2.5 they do.
    return_groups : bool, default=False
        Return a sensitive group of each row too, for objectives about fairness: a row of class 1 is in group 1 with
        probability 0.8, one of class 0 with 0.2. The other arrays are the same with and without it.
    random_state : int, RandomState instance or None, default=None
        Seed of rows, groups and flips.

    Returns
    -------
    X : ndarray of shape (n_samples + n_clean, 2)
        The rows.
    y : ndarray of int of shape (n_samples + n_clean,)
        Their labels, 0 and 1, the flipped ones flipped.
    flipped : ndarray of bool of shape (n_samples + n_clean,)
        The rows whose label is wrong.
    groups : ndarray of int of shape (n_samples + n_clean,)
        Their groups, 0 and 1; only if ``return_groups``.

    See Also
    --------
    make_noisy_moons : Classes that no line separates.

    Notes
    -----
    Source: the kind of data of section 4 and appendix A.1 (Figures 1 and 5) of "Revisit, Extend, and Enhance
    Hessian-Free Influence Functions", which are 150 rows, 10 of them flipped, and 100 clean ones.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.datasets import make_noisy_blobs
    >>> X, y, flipped = make_noisy_blobs(150, n_clean=100, flip_share=10 / 150, random_state=0)
    >>> X_train, y_train, X_val, y_val = X[:150], y[:150], X[150:], y[150:]
    >>> scores = influence_scores(LogisticRegression().fit(X_train, y_train), X_train, y_train, X_val, y_val)
    >>> int(flipped.sum()), int(flipped[scores.argsort()[:10]].sum())
    (10, 10)
    """
    n_flipped = _check(n_samples, n_clean, flip_share, noise)
    seed = _seed(random_state)
    rng = np.random.default_rng(seed)
    X, y = make_blobs(n_samples + n_clean, centers=_CENTRES, cluster_std=noise, random_state=seed)
    # Groups are drawn, asked for or not, so that the flips are the same.
    groups = (rng.random(len(y)) < np.take(_IN_GROUP, y)).astype(int)
    flipped = _mask(len(y), rng.permutation(n_samples)[:n_flipped])
    y = np.where(flipped, 1 - y, y)
    return (X, y, flipped, groups) if return_groups else (X, y, flipped)


def make_noisy_moons(
    n_samples: int = 200, *, n_clean: int = 0, flip_share: float = 0.1, noise: float = 0.1, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two half-moons of rows, one a class, a share of each class under the other's label.

    Parameters
    ----------
    n_samples : int, default=200
        Number of rows of which a share gets the wrong label.
    n_clean : int, default=0
        Number of further rows, which come last and keep their labels: to validate or to test on.
    flip_share : float in [0, 1], default=0.1
        Share of the ``n_samples`` rows whose label is flipped, half of them of each class. Classes are drawn, so that
        a share near 1 may ask for more rows of a class than there are, which raises.
    noise : float, default=0.1
        Standard deviation of what is added to each feature; the moons begin to overlap at 0.2.
    random_state : int, RandomState instance or None, default=None
        Seed of rows and flips.

    Returns
    -------
    X : ndarray of shape (n_samples + n_clean, 2)
        The rows.
    y : ndarray of int of shape (n_samples + n_clean,)
        Their labels, 0 and 1, the flipped ones flipped.
    flipped : ndarray of bool of shape (n_samples + n_clean,)
        The rows whose label is wrong.

    See Also
    --------
    make_noisy_blobs : Classes that a line separates.

    Notes
    -----
    Source: the kind of data of section 4 (Figure 1) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions",
    which are 200 rows, 20 of them flipped, and 100 clean ones.

    Examples
    --------
    >>> from skinfluence.datasets import make_noisy_moons
    >>> X, y, flipped = make_noisy_moons(200, n_clean=100, flip_share=0.1, random_state=0)
    >>> X.shape, int(flipped.sum()), int(flipped[200:].sum())
    ((300, 2), 20, 0)
    """
    n_flipped = _check(n_samples, n_clean, flip_share, noise)
    seed = _seed(random_state)
    rng = np.random.default_rng(seed)
    X, y = make_moons(n_samples + n_clean, noise=noise, random_state=seed)
    rows = [np.flatnonzero(y[:n_samples] == label) for label in (0, 1)]
    n_each = (n_flipped // 2, n_flipped - n_flipped // 2)
    for own, wanted in zip(rows, n_each, strict=True):
        if wanted > len(own):
            raise ValueError(
                f"flip_share={flip_share!r} asks for {wanted} flipped rows of a class, of which {len(own)} were drawn: "
                "lower it."
            )
    chosen = [rng.choice(own, wanted, replace=False) for own, wanted in zip(rows, n_each, strict=True)]
    flipped = _mask(len(y), np.concatenate(chosen))
    return X, np.where(flipped, 1 - y, y), flipped


def _check(n_samples: int, n_clean: int, flip_share: float, noise: float) -> int:
    """Check the parameters; the number of rows to flip."""
    check_scalar(n_samples, "n_samples", Integral, min_val=2)
    check_scalar(n_clean, "n_clean", Integral, min_val=0)
    check_scalar(flip_share, "flip_share", Real, min_val=0, max_val=1)
    check_scalar(noise, "noise", Real, min_val=0)
    return round(flip_share * n_samples)


def _seed(random_state: Any) -> int:
    """A seed for generators of both kinds, scikit-learn's and NumPy's newer one."""
    if isinstance(random_state, Integral):
        check_random_state(random_state)  # says which integers are seeds
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _mask(n: int, rows: np.ndarray) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask
