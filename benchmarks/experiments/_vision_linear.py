"""A linear head on fixed features of CIFAR-10, human labels: rows scored, 5 % removed, the head fitted again."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import TDA as TDAMethod
from skinfluence.methods import IPEnsemble, TracIn, resolve_method

from .. import _data
from . import _vision_features

NONE, RANDOM, LOSS, CLEANLAB = "no curation", "random removal", "per-row loss", "cleanlab"
TRUSTED, CROSS = "trusted", "cross-fitted"
RATE = 0.05
#: Scored through the fitted model against validation rows.
TRUSTED_METHODS = (
    "ip", "ip_ensemble", "exact", "cg", "lissa", "arnoldi", "datainf", "ekfac", "tracin", "tda", "gex", "trak",
    "self_tracin", "knn_shapley",
)  # fmt: skip
#: Scored by InfluenceSelector, which is given no validation rows.
CROSS_METHODS = ("ip", "ip_ensemble", "exact", "ekfac", "datainf", "trak", "self_tracin")
RATES, DROPOUTS, MEMBERS = (0.0, 0.025, 0.05, 0.075, 0.1), (0.01, 0.1, 0.5), (1, 5, 10, 15, 20)
#: Iterations after which fits are stopped to be checkpoints, beside the finished one.
CHECKPOINTS = (2, 4, 8)


@dataclass(frozen=True)
class Sizes:
    """Rows drawn, and principal components kept."""

    train: int = 48_000
    val: int = 2_000
    test: int = 10_000
    components: int = 256


@dataclass(frozen=True)
class Split:
    """Training rows with labels that people gave; validation and test rows with true ones."""

    X: np.ndarray
    y: np.ndarray
    wrong: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@lru_cache(maxsize=1)
def table(data_home: str | None, sizes: Sizes, make: bool) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Kind of features, those of the training and of the test images, and the labels of the latter."""
    found = _vision_features.features(data_home, make=make)
    if found is None:
        images = _data.load_cifar10(data_home)
        kind, y_test = _vision_features.RAW, images.y_test
        train, test = (part.reshape(len(part), -1) for part in (images.X_train, images.X_test))
    else:
        kind, train, test = found
        y_test = _data.load_cifar10_labels("test", data_home)
    few = np.random.default_rng(0).permutation(len(train))[: 4 * sizes.train]
    reduced = _vision_features.reduce(train, test, sizes.components, fit_on=few)
    return kind, *reduced, y_test


def draw(noise: str, seed: int, data_home: str | None, sizes: Sizes, *, make: bool) -> Split:
    """Validation and training rows drawn by seed; the test rows are the same for all seeds."""
    _, X, X_test, y_test = table(data_home, sizes, make)
    given, true = _data.load_cifar10n(noise, data_home)
    train, val = train_test_split(
        np.arange(len(X)), train_size=sizes.train, test_size=sizes.val, stratify=true, random_state=seed
    )
    rows = slice(sizes.test)
    return Split(
        X[train], given[train], (given != true)[train], X[val], true[val], X_test[rows], y_test[rows]
    )  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """Scores of a method, low for rows that hurt, and the rows it would keep if it says so itself."""

    method: str
    scores: np.ndarray
    seconds: float
    keep: np.ndarray | None = None


def head() -> LogisticRegression:
    """The classifier, unfitted."""
    return LogisticRegression(C=0.01, tol=1e-3, max_iter=500)


def one_seed(
    noise: str, seed: int, data_home: str | None, sizes: Sizes, *, make: bool, sweeps: bool
) -> list[dict[str, Any]]:
    """What every method does with one draw of the rows."""
    split = draw(noise, seed, data_home, sizes, make=make)
    began = time.perf_counter()
    fitted = head().fit(split.X, split.y)
    common = {"part": "linear", "noise": noise, "seed": seed, "wrong": split.wrong.mean(), "rows": len(split.y)}
    common["fit_seconds"] = time.perf_counter() - began
    rows = [common | {"protocol": TRUSTED, "method": NONE, "accuracy": accuracy(fitted, split)}]
    everything = (
        (TRUSTED, trusted_scores(split, fitted, seed)),
        (CROSS, cross_fitted_scores(split, seed)),
    )
    for protocol, scored in everything:
        for one in scored:
            found = {"protocol": protocol, "method": one.method, "seconds": one.seconds}
            rows.append(common | found | judged(one.scores, split, fitted, one.keep))
            print(noise, seed, protocol, one.method, f"{one.seconds:.1f} s", f"{rows[-1]['accuracy']:.4f}", flush=True)
    return rows + (list(swept(split, fitted, seed, common)) if sweeps else [])


def accuracy(fitted: LogisticRegression, split: Split) -> float:
    return float(np.mean(fitted.predict(split.X_test) == split.y_test))


def judged(
    scores: np.ndarray, split: Split, fitted: LogisticRegression, keep: np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy of the head fitted on the rows kept, by default all but the lowest scores, and wrong labels found."""
    keep = lowest_removed(scores) if keep is None else keep
    return {
        "accuracy": accuracy(refit(fitted, split, keep), split),
        "removed": 1 - keep.mean(),
        "hit": split.wrong[~keep].mean() if not keep.all() else None,
        "auroc": roc_auc_score(split.wrong, -scores),
        "ap": average_precision_score(split.wrong, -scores),
    }


def lowest_removed(scores: np.ndarray, rate: float = RATE) -> np.ndarray:
    """Mask of what is left without the share `rate` of lowest scores."""
    keep = np.ones(len(scores), dtype=bool)
    keep[np.argsort(scores, kind="stable")[: round(rate * len(scores))]] = False
    return keep


def refit(fitted: LogisticRegression, split: Split, keep: np.ndarray) -> LogisticRegression:
    """The head fitted on the rows kept, from where it stood; the loss is convex, so that the start decides nothing."""
    return copy.deepcopy(fitted).set_params(warm_start=True).fit(split.X[keep], split.y[keep])


def row_loss(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.log(probabilities[np.arange(len(y)), y] + 1e-300)


def configured(method: str, split: Split) -> Any:
    """A method; those that follow a training run get the head's."""
    if method not in ("tracin", "tda"):
        return resolve_method(method)
    stopped = []
    for iterations in CHECKPOINTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that is stopped on purpose says that it has not converged
            stopped.append(head().set_params(max_iter=iterations).fit(split.X, split.y))
    stopped.append(head().fit(split.X, split.y))
    return (TracIn if method == "tracin" else TDAMethod)(checkpoints=stopped)


def trusted_scores(split: Split, fitted: LogisticRegression, seed: int) -> Iterator[Scored]:
    """Scores in-sample, against validation rows with true labels."""
    yield Scored(RANDOM, np.random.default_rng(seed).random(len(split.y)), 0.0)
    began = time.perf_counter()
    yield Scored(LOSS, -row_loss(fitted.predict_proba(split.X), split.y), time.perf_counter() - began)
    for name in TRUSTED_METHODS:
        method = configured(name, split)
        began = time.perf_counter()
        yield Scored(name, score(split, fitted, method, seed), time.perf_counter() - began)


def score(split: Split, fitted: LogisticRegression, method: Any, seed: int) -> np.ndarray:
    judges = () if method == "self_tracin" or type(method).__name__.startswith("Self") else (split.X_val, split.y_val)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that is a little away from its minimum, of systems half solved
        return influence_scores(fitted, split.X, split.y, *judges, method=method, random_state=seed)


def cross_fitted_scores(split: Split, seed: int) -> Iterator[Scored]:
    """Scores by models that never saw the row, without validation rows."""
    began = time.perf_counter()
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(head(), split.X, split.y, cv=folds, method="predict_proba")
    seconds = time.perf_counter() - began
    yield Scored(LOSS, -row_loss(probabilities, split.y), seconds)
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ModuleNotFoundError:
        print("cleanlab is not installed: left out.")
    else:
        issues = find_label_issues(split.y, probabilities, n_jobs=1)
        quality = get_label_quality_scores(split.y, probabilities, method="normalized_margin")
        yield Scored(CLEANLAB, quality, time.perf_counter() - began, keep=~issues)
    for name in CROSS_METHODS:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selector = InfluenceSelector(head(), method=name, removal_rate=RATE, random_state=seed)
            selector.fit(split.X, split.y)
        yield Scored(name, selector.scores_, time.perf_counter() - began)


def swept(split: Split, fitted: LogisticRegression, seed: int, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Removal rate, dropout and members, in-sample against the validation rows."""
    common = common | {"protocol": TRUSTED}
    scored = {name: score(split, fitted, name, seed) for name in ("ip", "ip_ensemble")}
    scored[LOSS] = -row_loss(fitted.predict_proba(split.X), split.y)
    for rate in RATES:
        for method, scores in scored.items():
            keep = lowest_removed(scores, rate)
            yield common | {"sweep": "removal rate", "at": rate, "method": method} | judged(scores, split, fitted, keep)
    for dropout in DROPOUTS:
        scores = score(split, fitted, IPEnsemble(dropout=dropout), seed)
        yield common | {"sweep": "dropout", "at": dropout, "method": "ip_ensemble"} | judged(scores, split, fitted)
    for members in MEMBERS:
        scores = score(split, fitted, IPEnsemble(n_members=members), seed)
        yield common | {"sweep": "members", "at": members, "method": "ip_ensemble"} | judged(scores, split, fitted)
