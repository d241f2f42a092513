"""A linear head on fixed features of CIFAR-10, human labels: rows scored, 5 % removed, the head fitted again."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import GEX, TDA, IPEnsemble, TracIn, resolve_method

from . import _vision_data, _vision_features
from ._vision_data import Home, Split

NONE, RANDOM, LOSS = "no curation", "random removal", "per-row loss"
CLEANLAB, CLEANLAB_5, AUTO = "cleanlab", "cleanlab, 5 %", "exact, auto"
MARGIN = "cleanlab, lowest margin"  # `CLEANLAB_5` at any rate
ORACLE = "every wrong label removed"
TRUSTED, CROSS = "clean validation rows", "cross-fitted"
ENSEMBLE, RATE = "ip_ensemble", 0.05
#: Scored through the fitted head against validation rows.
TRUSTED_METHODS = (
    "ip", "ip_ensemble", "exact", "cg", "lissa", "arnoldi", "datainf", "ekfac", "trak", "tracin", "tda", "gex",
    "self_tracin", "knn_shapley",
)  # fmt: skip
#: The same, in a part of their own: it takes as long as most of those together.
OTHERS = ("self_lissa",)
#: Scored by InfluenceSelector, which is given no validation rows.
CROSS_METHODS = ("ip", "ip_ensemble", "exact", "datainf", "ekfac", "trak", "self_tracin")
#: Methods of which the removal rate is swept.
SWEPT = ("ip", ENSEMBLE, "exact", "self_tracin", LOSS)
RATES, DROPOUTS, MEMBERS = (0.0, 0.025, 0.05, 0.075, 0.1), (0.01, 0.1, 0.5), (1, 5, 10, 15, 20)
#: Iterations after which fits are stopped to be checkpoints, beside the finished one.
CHECKPOINTS = (2, 5, 10)


@dataclass(frozen=True)
class Sizes:
    """Rows taken (None: all), principal components kept, the head's C, and steps of GEX."""

    train: int | None = None
    val: int = 2000
    test: int = 8000
    components: int = 128
    C: float = 0.1
    gex_steps: int = 800
    pretrained: bool = True


class Head(LogisticRegression):
    """Logistic regression that remembers what it was fitted to, so that all methods share the models of the folds."""

    fitted_before: ClassVar[dict[str, dict[str, Any]]] = {}

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Head:
        key = joblib.hash((self.get_params(), X, y, sample_weight))
        if key not in self.fitted_before:
            super().fit(X, y, sample_weight)
            self.fitted_before[key] = {name: value for name, value in vars(self).items() if name.endswith("_")}
        vars(self).update(copy.deepcopy(self.fitted_before[key]))
        return self


@dataclass(frozen=True)
class Scored:
    """Scores of a method, low for rows that hurt, and the rows it would keep if it says so itself."""

    method: str
    scores: np.ndarray
    seconds: float
    keep: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        return lowest_removed(self.scores) if self.keep is None else self.keep


@lru_cache(maxsize=1)
def table(data_home: Home, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Features of the training and of the test images."""
    if not sizes.pretrained:
        train = _vision_data.load_images("train", data_home, slice(sizes.train))
        test = _vision_data.load_images("test", data_home, slice(sizes.val + sizes.test))
        return _vision_features.reduced(*map(_vision_features.pixels, (train, test)), sizes.components)
    stored = _vision_features.cache_folder() / f"cifar10_{_vision_features.PIXELS}_pca{sizes.components}.npz"
    if not stored.is_file():
        parts = [_vision_features.pretrained_features(part, data_home).astype(np.float32) for part in ("train", "test")]
        train, test = _vision_features.reduced(*parts, sizes.components)
        np.savez(stored, train=train, test=test)
    with np.load(stored) as found:
        return found["train"], found["test"]


def draw(noise: str, seed: int, data_home: Home, sizes: Sizes) -> Split:
    """All training rows; the test images parted by seed into validation rows and those that are tested on."""
    X, X_test = table(data_home, sizes)
    given, true = (labels[: len(X)] for labels in _vision_data.load_human_labels(noise, data_home))
    y_test = _vision_data.load_labels("test", data_home)[: len(X_test)]
    order = np.random.default_rng(seed).permutation(len(X_test))
    val, test = order[: sizes.val], order[sizes.val : sizes.val + sizes.test]
    return Split(X, given, given != true, X_test[val], y_test[val], X_test[test], y_test[test])


def unfitted(sizes: Sizes) -> Head:
    return Head(C=sizes.C, max_iter=1000, tol=1e-5)


def one_seed(noise: str, seed: int, data_home: Home, sizes: Sizes) -> list[dict[str, Any]]:
    """What every method does with one draw."""
    split = draw(noise, seed, data_home, sizes)
    head = unfitted(sizes)
    began = time.perf_counter()
    fitted = head.fit(split.X, split.y)
    common = {"part": "linear", "noise": noise, "seed": seed, "wrong": split.wrong.mean(), "rows": len(split.y)}
    common["fit_seconds"] = time.perf_counter() - began
    judge = Judge(split, fitted)
    rows = [common | {"protocol": TRUSTED, "method": NONE} | judge.of(np.ones(len(split.y), dtype=bool))]
    rows.append(common | {"protocol": TRUSTED, "method": ORACLE} | judge.of(~split.wrong))
    for protocol, scored in (
        (TRUSTED, trusted_scores(split, fitted, seed, sizes)),
        (CROSS, cross_fitted_scores(split, head, seed)),
    ):
        kept, of_protocol = {}, []
        for one in scored:
            found = common | {"protocol": protocol, "method": one.method, "seconds": one.seconds}
            kept[one.method] = keep = one.kept
            of_protocol.append(found | judge.of(keep) | detection(one.scores, split.wrong))
            last = of_protocol[-1]
            print(noise, seed, protocol, one.method, f"{one.seconds:.1f} s {last['accuracy']:.4f}", flush=True)
            if one.method in SWEPT:
                for rate in RATES:
                    sweep = found | {"sweep": "removal rate", "at": rate}
                    rows.append(sweep | judge.of(lowest_removed(one.scores, rate)))
        for row in of_protocol:
            row["apart_ensemble"] = judge.apart(kept[row["method"]], kept[ENSEMBLE])
        rows += of_protocol
    rows += swept(split, judge, fitted, seed, common)
    return [row | {"refit_seconds": judge.seconds_a_fit} for row in rows]


class Judge:
    """Refits the head on the rows kept, and tests it; what it has fitted once it does not fit again."""

    def __init__(self, split: Split, fitted: LogisticRegression) -> None:
        self.split, self.start = split, fitted
        self.right: dict[bytes, np.ndarray] = {}
        self.seconds: list[float] = []

    @property
    def seconds_a_fit(self) -> float | None:
        """What a fit took in the middle."""
        return float(np.median(self.seconds)) if self.seconds else None

    def of(self, keep: np.ndarray) -> dict[str, Any]:
        """Accuracy, how it is ``apart`` from that of all rows, and share of rows removed and of wrong ones therein."""
        return {
            "accuracy": self._right(keep).mean(),
            "apart": self.apart(keep, np.ones(len(keep), dtype=bool)),
            "removed": 1 - keep.mean(),
            "hit": None if keep.all() else self.split.wrong[~keep].mean(),
        }

    def apart(self, keep: np.ndarray, other: np.ndarray) -> float:
        """Share of test rows on which exactly one of two models is right."""
        return float((self._right(keep) != self._right(other)).mean())

    def _right(self, keep: np.ndarray) -> np.ndarray:
        key = np.packbits(keep).tobytes()
        if key not in self.right:
            split, again = self.split, self.start
            if not keep.all():
                # From where it stood; the loss is convex, so that the start decides nothing.
                again = copy.deepcopy(self.start).set_params(warm_start=True)
                began = time.perf_counter()
                LogisticRegression.fit(again, split.X[keep], split.y[keep])
                self.seconds.append(time.perf_counter() - began)
            self.right[key] = again.predict(split.X_test) == split.y_test
        return self.right[key]


def detection(scores: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """How well low scores tell the wrong labels."""
    return {"auroc": roc_auc_score(wrong, -scores), "ap": average_precision_score(wrong, -scores)}


def lowest_removed(scores: np.ndarray, rate: float = RATE) -> np.ndarray:
    """Mask of what is left without the share `rate` of lowest scores."""
    keep = np.ones(len(scores), dtype=bool)
    keep[np.argsort(scores, kind="stable")[: round(rate * len(scores))]] = False
    return keep


def random_scores(split: Split, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(len(split.y))


def row_loss(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.log(probabilities[np.arange(len(y)), y] + 1e-300)


def configured(method: str, split: Split, fitted: LogisticRegression, sizes: Sizes) -> Any:
    """A method; those that follow a training run get the head's."""
    if method not in ("tracin", "tda"):
        return GEX(n_steps=sizes.gex_steps) if method == "gex" else resolve_method(method)
    stopped = []
    for iterations in CHECKPOINTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that is stopped on purpose says that it has not converged
            stopped.append(Head(C=fitted.C, max_iter=iterations).fit(split.X, split.y))
    return (TracIn if method == "tracin" else TDA)(checkpoints=[*stopped, fitted])


def trusted_scores(split: Split, fitted: LogisticRegression, seed: int, sizes: Sizes) -> Iterator[Scored]:
    """Scores in-sample, against validation rows with true labels."""
    yield Scored(RANDOM, random_scores(split, seed), 0.0)
    began = time.perf_counter()
    yield Scored(LOSS, -row_loss(fitted.predict_proba(split.X), split.y), time.perf_counter() - began)
    yield from _trusted(TRUSTED_METHODS, split, fitted, seed, sizes)


def _trusted(
    names: tuple[str, ...], split: Split, fitted: LogisticRegression, seed: int, sizes: Sizes
) -> Iterator[Scored]:
    for name in names:
        method = configured(name, split, fitted, sizes)
        began = time.perf_counter()
        yield Scored(name, score(split, fitted, method, seed), time.perf_counter() - began)


def score(split: Split, fitted: LogisticRegression, method: Any, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that is a little away from its minimum, of systems half solved
        return influence_scores(fitted, split.X, split.y, split.X_val, split.y_val, method=method, random_state=seed)


def out_of_fold(split: Split, head: Head, seed: int) -> tuple[StratifiedKFold, np.ndarray]:
    """The folds, and each row's probabilities by the head of the others."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    probabilities = np.empty((len(split.y), len(np.unique(split.y))))
    for train, test in folds.split(split.X, split.y):
        probabilities[test] = copy.copy(head).fit(split.X[train], split.y[train]).predict_proba(split.X[test])
    return folds, probabilities


def label_quality(split: Split, probabilities: np.ndarray) -> np.ndarray:
    """cleanlab's, low for labels that it doubts: the normalised margin."""
    from cleanlab.rank import get_label_quality_scores

    found: np.ndarray = get_label_quality_scores(split.y, probabilities, method="normalized_margin")
    return found


def cross_fitted_scores(split: Split, head: Head, seed: int) -> Iterator[Scored]:
    """Scores by models that never saw the row, without validation rows."""
    began = time.perf_counter()
    folds, probabilities = out_of_fold(split, head, seed)
    fitting = time.perf_counter() - began
    yield Scored(LOSS, -row_loss(probabilities, split.y), fitting)
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError:
        print("cleanlab is not installed: left out.")
    else:
        began = time.perf_counter()
        quality = label_quality(split, probabilities)
        yield Scored(CLEANLAB_5, quality, fitting + time.perf_counter() - began)
        began = time.perf_counter()
        issues = find_label_issues(split.y, probabilities, n_jobs=1)
        yield Scored(CLEANLAB, quality, fitting + time.perf_counter() - began, keep=~issues)
    for name in CROSS_METHODS:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selector = InfluenceSelector(head, method=name, removal_rate=RATE, cv=folds, random_state=seed)
            scores = selector.fit(split.X, split.y).scores_
        yield Scored(name, scores, fitting + time.perf_counter() - began)
        if name == "exact":
            yield Scored(AUTO, scores, fitting + time.perf_counter() - began, keep=scores >= 0)


def others(noise: str, seed: int, data_home: Home, sizes: Sizes) -> list[dict[str, Any]]:
    """What `OTHERS` do, with the draw of `one_seed`."""
    split = draw(noise, seed, data_home, sizes)
    fitted = unfitted(sizes).fit(split.X, split.y)
    judge, rows = Judge(split, fitted), []
    for one in _trusted(OTHERS, split, fitted, seed, sizes):
        found = {"part": "linear", "noise": noise, "seed": seed, "protocol": TRUSTED, "method": one.method}
        rows.append(found | {"seconds": one.seconds} | judge.of(one.kept) | detection(one.scores, split.wrong))
        print(noise, seed, TRUSTED, one.method, f"{one.seconds:.1f} s {rows[-1]['accuracy']:.4f}", flush=True)
    return rows


def baselines_swept(noise: str, seed: int, data_home: Home, sizes: Sizes) -> list[dict[str, Any]]:
    """Random removal and cleanlab's lowest margins at every rate, with the draw and the folds of `one_seed`."""
    split = draw(noise, seed, data_home, sizes)
    head = unfitted(sizes)
    judge = Judge(split, copy.copy(head).fit(split.X, split.y))
    scores = {(TRUSTED, RANDOM): random_scores(split, seed)}
    try:
        scores[CROSS, MARGIN] = label_quality(split, out_of_fold(split, head, seed)[1])
    except ModuleNotFoundError:
        print("cleanlab is not installed: left out.")
    common = {"part": "linear", "noise": noise, "seed": seed, "sweep": "removal rate"}
    rows = [
        common | {"protocol": protocol, "method": method, "at": rate} | judge.of(lowest_removed(found, rate))
        for (protocol, method), found in scores.items()
        for rate in RATES
    ]
    print(noise, seed, "rates of the baselines", flush=True)
    return rows


def swept(
    split: Split, judge: Judge, fitted: LogisticRegression, seed: int, common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Dropout and members of IP Ensemble, in-sample against the validation rows."""
    common = common | {"protocol": TRUSTED, "method": "ip_ensemble"}
    cases: list[tuple[str, float, IPEnsemble]] = [("dropout", at, IPEnsemble(dropout=at)) for at in DROPOUTS]
    cases += [("members", at, IPEnsemble(n_members=at)) for at in MEMBERS]
    cases += [("members, dropout 0.5", at, IPEnsemble(n_members=at, dropout=0.5)) for at in MEMBERS]
    for sweep, at, method in cases:
        scores = score(split, fitted, method, seed)
        found = judge.of(lowest_removed(scores)) | detection(scores, split.wrong)
        yield common | {"sweep": sweep, "at": at} | found
