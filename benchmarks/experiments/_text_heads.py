"""Fairer heads on fixed states of an encoder: one seed of the table of curators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import influence_scores
from skinfluence.methods import GEX, Arnoldi, LiSSA
from skinfluence.metrics import fair_score
from skinfluence.nets import DifferentiableNet
from skinfluence.objectives import Counterfactual, Joint

from .._peers import REMOVAL_RATE, Curation, remove_most_suspect
from ._text_data import Row, Task, of_rows
from ._text_twins import AXES

NONE, RESTART, RANDOM = "no curation", "no curation, another start", "random removal"
LOSS, CLEANLAB = "per-row loss, out of fold", "cleanlab find_label_issues"
BASELINES = (NONE, RESTART, RANDOM, LOSS, CLEANLAB)
UTILITY, FAIRNESS, JOINT = "utility", "fairness", "joint"
#: Fairness taken on pairs of CrowS-Pairs in place of the validation rows' twins.
CROWS = "fairness on CrowS-Pairs"
JOINT_CROWS = "joint, CrowS-Pairs"
#: Of the features that the head is trained on.
N_COMPONENTS = 256
#: Label -> method; LiSSA, Arnoldi and GEX are kept to some hundred steps.
METHODS: dict[str, Any] = {
    "ip": "ip",
    "ip_ensemble": "ip_ensemble",
    "tracin": "tracin",
    "exact": "exact",
    "lissa": LiSSA(batch_size=500, depth=100),
    "arnoldi": Arnoldi(rank=20, n_iter=30),
    "ekfac": "ekfac",
    "datainf": "datainf",
    "gex": GEX(n_members=4, n_steps=100, lr=0.01),
    "tda": "tda",
    "trak": "trak",
}
#: It values rows for a model of neighbours, under that model's own loss: for utility alone.
NEIGHBOURS = "knn_shapley"
#: Label -> (parameters, method) of self-influence; LiSSA solves for every row, which is dear for the whole head.
SELF = {"self_tracin": ("all", "self_tracin"), "self_lissa, last layer": ("last_layer", "self_lissa")}
VALUES = ("accuracy", "balanced_accuracy", "majority", "fair", "gap", "fair_crows", "removed", "seconds")


@dataclass(frozen=True)
class Numbers:
    """A task's rows as features: of training and development rows, of twins, and of the pairs of CrowS-Pairs."""

    train: np.ndarray
    dev: np.ndarray
    twins: np.ndarray
    crows: tuple[np.ndarray, np.ndarray] | None

    def reduced(self) -> Numbers:
        """The leading principal components of the standardised training rows, with one factor for all of them."""
        n_kept = min(N_COMPONENTS, *self.train.shape)
        fitted = make_pipeline(StandardScaler(), PCA(n_kept, random_state=0)).fit(self.train)
        spread = fitted.transform(self.train).std()

        def reduce(rows: np.ndarray) -> np.ndarray:
            return (fitted.transform(rows) / spread).astype(np.float32)

        crows = None if self.crows is None else (reduce(self.crows[0]), reduce(self.crows[1]))
        return Numbers(reduce(self.train), reduce(self.dev), reduce(self.twins), crows)


def features(states: Callable[[Sequence[str], bool], np.ndarray], rows: Sequence[Row]) -> np.ndarray:
    """Of a pair: the states u and v of its sentences, ``|u - v|`` and ``u v``; of a sentence: of several layers.

    ``states(texts, several)`` gives mean states of the last layer, or of several side by side.
    """
    sentences = list(zip(*rows, strict=True)) if rows else []
    if len(sentences) == 1:
        return states(sentences[0], True)
    u, v = (states(part, False) for part in sentences)
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


def fit_head(X: np.ndarray, y: np.ndarray, seed: int, epochs: int) -> Any:
    """A layer of 64 with ReLU and two outputs, as a fitted skorch net."""
    import torch
    from skorch import NeuralNetClassifier
    from torch import nn

    from skinfluence.snapshots import CheckpointRecorder

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(X.shape[1], 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2)),
        criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-3, optimizer__weight_decay=1e-3,
        max_epochs=epochs, batch_size=128, iterator_train__shuffle=True, train_split=None, verbose=0,
        callbacks=[("keep", CheckpointRecorder(every=max(epochs // 3, 1)))], callbacks__print_log=None,
    )  # fmt: skip
    return net.fit(X, y)


def one_seed(
    task: Task, numbers: Numbers, seed: int, *, epochs: int, methods: Sequence[str] = (*METHODS, NEIGHBOURS)
) -> Any:
    """What each curator makes of one start and one cut of the development rows; and how alike methods score."""
    X, y = numbers.train, task.y_train
    val, test = task.halves(seed)
    n_crows = 0 if numbers.crows is None else len(numbers.crows[0])
    crows = np.random.default_rng(seed).permutation(n_crows)
    of_test = None if numbers.crows is None else tuple(side[crows[n_crows // 2 :]] for side in numbers.crows)
    tested = tester(task, numbers.dev, numbers.twins, test, lambda table, rows: table[rows], of_test)
    net = fit_head(X, y, seed, epochs)
    rows: list[dict[str, Any]] = []

    def add(method: str, objective: str, kept: np.ndarray | None, fitted: Any, seconds: float = 0.0) -> None:
        row = {"task": task.name, "method": method, "objective": objective, "seed": seed, "seconds": seconds}
        rows.append(row | {"removed": 0.0 if kept is None else 1 - kept.mean()} | tested(fitted))

    def refit(method: str, objective: str, curation: Curation, seconds: float = 0.0) -> None:
        add(method, objective, curation.keep, fit_head(X[curation.keep], y[curation.keep], seed, epochs), seconds)

    add(NONE, "", None, net)
    add(RESTART, "", None, fit_head(X, y, seed + 1000, epochs))
    refit(RANDOM, "", remove_most_suspect(np.random.default_rng(seed).random(len(y)), y))
    probabilities = out_of_fold(X, y, seed, epochs)
    refit(LOSS, "", remove_most_suspect(-np.log(probabilities[np.arange(len(y)), y] + 1e-30), y))
    issues = cleanlab_issues(y, probabilities)
    if issues is not None:
        refit(CLEANLAB, "", Curation(~issues, None))

    pairs = {FAIRNESS: _pairs(task, numbers, val)}
    if n_crows:
        assert numbers.crows is not None
        pairs[CROWS] = tuple(side[crows[: n_crows // 2]] for side in numbers.crows)
    found: dict[tuple[str, str], np.ndarray] = {}
    for method in methods:
        sources = {} if method == NEIGHBOURS else {FAIRNESS: pairs[FAIRNESS]}
        if method in ("ip", "ip_ensemble"):
            sources = pairs
        scores, seconds = _scores(net, X, y, (numbers.dev[val], task.y_dev[val]), sources, method, seed)
        for objective, own in scores.items():
            found[method, objective] = own
            refit(method, objective, remove_most_suspect(-own, y), seconds[objective])
    for label, (parameters, method) in SELF.items():
        asked = DifferentiableNet(net, parameters=parameters)
        own, took = _timed(partial(influence_scores, asked, X, y, method=method, random_state=seed))
        refit(label, "self", remove_most_suspect(-own, y), took)
    return {"rows": rows, "agreement": _agreement(task.name, seed, found)}


def _scores(net: Any, X: Any, y: Any, val: Any, pairs: dict, method: str, seed: int) -> tuple[dict, dict]:
    """Scores for utility, for fairness on each source of pairs, and joint ones; and the seconds each took."""
    objectives = {UTILITY: "utility"} | {name: Counterfactual(pairs=own) for name, own in pairs.items()}
    scores, seconds = {}, {}
    for name, objective in objectives.items():
        scores[name], seconds[name] = _timed(
            lambda objective=objective: influence_scores(
                net, X, y, *val, method=METHODS.get(method, method), objective=objective, random_state=seed
            )
        )
    for fairness, joint in ((FAIRNESS, JOINT), (CROWS, JOINT_CROWS)):
        if fairness in scores:
            # As influence_scores itself ranks by Joint; the parts are there already.
            ranking = Joint(["utility", objectives[fairness]])
            scores[joint] = ranking.combine_scores(np.column_stack([scores[UTILITY], scores[fairness]]))
            seconds[joint] = seconds[UTILITY] + seconds[fairness]
    return scores, seconds


def _timed(make: Callable[[], Any]) -> tuple[Any, float]:
    import time
    import warnings

    with warnings.catch_warnings():
        # Of systems that were not solved to the end, on a net that was stopped early: what counts is the outcome.
        warnings.simplefilter("ignore")
        began = time.process_time()
        found = make()
    return found, time.process_time() - began


def tester(
    task: Task,
    dev: Any,
    twins: Any,
    test: np.ndarray,
    pick: Callable[[Any, Any], Any],
    crows: tuple[Any, Any] | None,
) -> Callable[[Any], dict[str, float]]:
    """Accuracy on the test rows, and how differently a net predicts for them and for their twins.

    ``dev`` and ``twins`` are the inputs of all development rows and of all twins; ``pick(input, rows)`` chooses.
    """
    chosen = of_rows(task.twins, test)
    place = {row: i for i, row in enumerate(test)}
    own = np.array([place[task.twins[i].row] for i in chosen], dtype=np.intp)
    axes = np.array([task.twins[i].axis for i in chosen])
    y = task.y_dev[test]
    X, X_twin = pick(dev, test), pick(twins, chosen)

    def tested(net: Any) -> dict[str, float]:
        p, p_twin = net.predict_proba(X), net.predict_proba(X_twin)
        predicted = p.argmax(axis=1)
        a, b = predicted[own], p_twin.argmax(axis=1)
        found = {
            "accuracy": np.mean(predicted == y),
            "balanced_accuracy": balanced_accuracy_score(y, predicted),
            "majority": np.bincount(y).max() / len(y),
            "fair": fair_score(a, b),
            "gap": np.abs(p[own, 1] - p_twin[:, 1]).mean(),
            "n_twins": len(own),
        }
        found |= {f"fair_{axis}": fair_score(a[axes == axis], b[axes == axis]) for axis in AXES if (axes == axis).any()}
        if crows is not None:
            found["fair_crows"] = fair_score(*(net.predict(side) for side in crows))
        return {name: float(value) for name, value in found.items()}

    return tested


def _pairs(task: Task, numbers: Numbers, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Development rows among ``rows``, and their twins, in the same order."""
    twins = of_rows(task.twins, rows)
    return numbers.dev[[task.twins[i].row for i in twins]], numbers.twins[twins]


def out_of_fold(X: np.ndarray, y: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    """Probabilities of each training row from a head that never saw it."""
    found = np.empty((len(y), 2))
    for rows, held_out in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y):
        found[held_out] = fit_head(X[rows], y[rows], seed, epochs).predict_proba(X[held_out])
    return found


def cleanlab_issues(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
    """The rows that cleanlab takes for wrongly labelled; None where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError:
        return None
    issues: np.ndarray = find_label_issues(y, probabilities, n_jobs=1)
    return issues


def _agreement(task: str, seed: int, found: dict[tuple[str, str], np.ndarray]) -> list[dict[str, Any]]:
    """How alike the scores of each method are to those of IP, and utility's to fairness's."""
    rows = []
    for (method, objective), scores in found.items():
        if objective not in (UTILITY, FAIRNESS):
            continue
        others = {"with ip": found.get(("ip", objective)), "with utility": found.get((method, UTILITY))}
        row: dict[str, Any] = {"task": task, "method": method, "objective": objective, "seed": seed}
        for name, other in others.items():
            row[name] = None if other is None or other is scores else float(spearmanr(scores, other).statistic)
            row[f"{name}, lowest"] = None if row[name] is None else overlap(scores, other)
        rows.append(row)
    return rows


def overlap(a: np.ndarray, b: Any) -> float:
    """Share of the lowest 5 % that two scorings have in common."""
    n = max(int(REMOVAL_RATE * len(a)), 1)
    lowest = set(np.argsort(a, kind="stable")[:n].tolist())
    return len(lowest & set(np.argsort(b, kind="stable")[:n].tolist())) / n
