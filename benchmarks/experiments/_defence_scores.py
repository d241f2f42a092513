"""Who scores the training rows in the defence study: the package's methods, and baselines that know of no attack."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceRelabeler, InfluenceReweighter, InfluenceSelector, influence_scores
from skinfluence.methods import SelfLiSSA, resolve_method
from skinfluence.objectives import AdversarialRobustness

from .. import _data, _peers
from .._peers import REMOVAL_RATE

GAMMA = 1.3
#: The study's penalties.
L2 = {"bank": 1.1622, "celeba": 15.1622, "toxic": 5.1622}
PROTOCOLS = ("held-out", "paper")
NONE, RANDOM, LOSS = "no curation", "random", "per-row loss"
CLEANLAB, CLEANLAB_5 = "cleanlab", "cleanlab, 5 %"
SELF, SELF_LISSA, ROBUSTNESS = "self_tracin", "self_lissa", "ip, robustness"
#: Steps of Self-LiSSA, which solves for every row: a fifth of the default.
SELF_STEPS = 200
#: Sorting all training rows for each attacked row would take longer than all the rest.
KNN_ROWS = 250
KNN = f"knn_shapley, {KNN_ROWS} rows"
METHODS = (
    RANDOM, LOSS, CLEANLAB_5, CLEANLAB, "ip", "ip_ensemble", ROBUSTNESS, "gex", "exact", "lissa", "arnoldi", "datainf",
    "ekfac", "trak", SELF, SELF_LISSA, KNN,
)  # fmt: skip
#: Methods that come to another for a linear model, and so have no lines of their own.
SAME = {"tracin": "ip", "tda": "ekfac", "cg": "exact"}
#: Methods whose choice is the same whatever the attack.
STANDING = (LOSS, CLEANLAB_5, CLEANLAB, ROBUSTNESS, SELF, SELF_LISSA)
TRIM, RELABEL, REWEIGHT, RAW = "trim 5 %", "relabel 5 %", "reweight", "reweight, raw"
ACTIONS = (TRIM, RELABEL, REWEIGHT, RAW)

Home = str | os.PathLike[str] | None
Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """A table, scaled, and the model to be defended; ``standing`` keeps what no attack changes."""

    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    model: LogisticRegression
    standing: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores, low for rows that hurt; other labels, where the method has an opinion; rows it would keep, likewise."""

    scores: np.ndarray
    labels: np.ndarray | None = None
    keep: np.ndarray | None = None


class Given(BaseEstimator):
    """A method that gives scores made elsewhere, so that the package's curators act on them.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        The scores of the training rows.
    """

    calibrated = False
    uses_objective = False

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score_rows(self, problem, objective, rows, random_state, n_jobs) -> tuple[np.ndarray, dict[str, Any]]:
        return self.scores, {}


@lru_cache(maxsize=1)
def setting(data: str, protocol: str, data_home: Home) -> Setting:
    """The table and the undefended model of a protocol."""
    splits = _data.load_splits(data, data_home=data_home)
    as_published = protocol == "paper"
    parts = [splits.X_train, splits.X_val, splits.X_test]
    scaler = StandardScaler().fit(np.concatenate(parts) if as_published and data == "bank" else splits.X_train)
    X, X_val, X_test = map(scaler.transform, parts)
    model = LogisticRegression(C=1 / L2[data], fit_intercept=not as_published, max_iter=2048).fit(X, splits.y_train)
    return Setting(X, splits.y_train, X_val, splits.y_val, X_test, splits.y_test, model)


def scored(method: str, at: Setting, clean: Labelled, judged: Labelled, seed: int) -> Scored:
    """Scores of the training rows.

    `judged` are the attacked rows on which influence is taken, and `clean` the same rows before the attack. Baselines
    are divided by the number of rows, as the package's scores are.

    Raises
    ------
    ModuleNotFoundError
        Where cleanlab is asked for and not installed.
    """
    n = len(at.y)
    if method == RANDOM:
        return Scored(np.random.default_rng(seed).normal(size=n))
    if method in (LOSS, CLEANLAB_5, CLEANLAB):
        return _out_of_fold(method, at)
    rows: tuple[Any, ...] = at.X, at.y, *judged
    if method in (SELF, SELF_LISSA):
        return Scored(
            influence_scores(at.model, *rows, method=method if method == SELF else SelfLiSSA(depth=SELF_STEPS))
        )
    if method == KNN:
        some = np.random.default_rng(seed).permutation(len(judged[1]))[:KNN_ROWS]
        return Scored(influence_scores(at.model, at.X, at.y, *(part[some] for part in judged), method="knn_shapley"))
    robust = method == ROBUSTNESS
    relabeler = InfluenceRelabeler(
        FrozenEstimator(at.model),
        method="ip" if robust else method,
        objective=AdversarialRobustness(GAMMA) if robust else "utility",
        relabel_rate=REMOVAL_RATE,
        random_state=seed,
    )
    X_val, y_val = clean if robust else judged
    relabeler.fit(at.X, at.y, X_val=X_val, y_val=y_val)
    return Scored(relabeler.scores_, labels=relabeler.y_)


def _out_of_fold(method: str, at: Setting) -> Scored:
    if "probabilities" not in at.standing:
        at.standing["probabilities"] = _peers.out_of_fold(at.X, at.y, at.model, 0)
    probabilities = at.standing["probabilities"]
    if method == LOSS:
        return Scored(-_peers.log_loss_of_rows(at.y, probabilities) / len(at.y))
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(at.y, probabilities, method="normalized_margin") / len(at.y)
    return Scored(quality, keep=~find_label_issues(at.y, probabilities, n_jobs=1) if method == CLEANLAB else None)


def actions(method: str) -> tuple[str, ...]:
    """What is done with the scores of a method; cleanlab's own choice of rows says nothing about weights."""
    if method == CLEANLAB:
        return TRIM, RELABEL
    # Scores drawn at random have no unit of their own.
    return (TRIM, RELABEL, REWEIGHT) if method == RANDOM else ACTIONS


def curated(
    action: str, found: Scored, at: Setting, judged: Labelled
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, labels and weights to train on again."""
    if found.keep is not None:
        chosen = np.flatnonzero(~found.keep)
        if action == TRIM:
            return at.X[found.keep], at.y[found.keep], None
        return at.X, flipped(at.y, chosen), None
    if action == RELABEL:
        lowest = np.argsort(found.scores, kind="stable")[: int(REMOVAL_RATE * len(at.y))]
        return at.X, flipped(at.y, lowest) if found.labels is None else found.labels, None
    frozen, method = FrozenEstimator(at.model), Given(found.scores)
    curator: Any = InfluenceSelector(frozen, method=method, removal_rate=REMOVAL_RATE)
    if action == REWEIGHT:
        curator = InfluenceReweighter(frozen, method=method)
    elif action == RAW:
        curator = InfluenceReweighter(frozen, method=method, scale="raw", temperature=1 / len(at.y))
    X, y, weight = curator.fit_curate(at.X, at.y, X_val=judged[0], y_val=judged[1])
    return X, y, weight


def flipped(y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Labels 0 and 1, those of `rows` exchanged."""
    y = y.copy()
    y[rows] = 1 - y[rows]
    return y


def same(data: str, protocol: str, data_home: Home) -> list[dict[str, Any]]:
    """How far methods that come to another are from it, on the test rows as they are."""
    at = setting(data, protocol, data_home)
    n_chosen = int(REMOVAL_RATE * len(at.y))
    rows = []
    for method, other in SAME.items():
        one, two = (
            influence_scores(at.model, at.X, at.y, at.X_test, at.y_test, method=resolve_method(name), random_state=0)
            for name in (method, other)
        )
        lowest = [set(np.argsort(scores, kind="stable")[:n_chosen].tolist()) for scores in (one, two)]
        rows.append(
            {
                "data": data,
                "protocol": protocol,
                "method": method,
                "as": other,
                "difference": float(np.abs(one - two).max() / np.abs(two).max()),
                "chosen": len(lowest[0] & lowest[1]) / n_chosen,
            }
        )
    return rows
