"""Do scores predict refits? Linear datamodeling score and leave-one-out, for every method, with the time of each.

Logistic regression on three real tables, 300 training rows and 150 validation rows of each, scaled; and a net, an MLP
64–16–10 of scikit-learn on 200 training rows of its digits, 30 epochs of SGD. A seed draws the rows, the net's start
and batches, the subsets and what a method draws. The objective is the mean loss of the validation rows, the scores are
those of the model that was fitted to all training rows, and methods have the package's settings, but where said.

**LDS**: 100 random halves of the training rows, a refit on each; Spearman's correlation of the sum of the scores left
out with the rise of the objective, and a bootstrap interval over the halves. **Leave one out**: the correlation of
scores with the rise when one row is left out, of all rows, or, of the net, of 50. All methods of a seed are judged by
the same refits. The net is refitted with several seeds each time, whose objectives are averaged: a single refit is
mostly noise, and that includes the method "leave_one_out", which refits with one seed of its own.

"per-row loss" scores a row by its own loss, negated; "random" is one draw a seed, the same on all tables, and says how
far chance goes: its LDS varies with a standard deviation of 0.1 about zero. The ``self_`` methods and the per-row loss
look at no validation row. On a linear model without checkpoints "tracin" is "ip" and "tda" is "ekfac". The net's have a
checkpoint after every fifth epoch. "gex" makes its members on all of them, which by name alone it would not do on a
linear model, where it is "ip". "trak, 10 models" and "ekfac, 10 models" are means over ten refits of the net with other
seeds; of a linear model all ten would be the same. Shapley values are of few random orders, as said beside them, where
the package draws a hundred: an order is nearly as many refits as there are rows, and on the net these thirty cost more
than all other methods together. Time is processor time on one thread, as a multiple of that of IP in the same round;
the refits of ten models and of Shapley values are in it, and what a checkpointed training run or the refits of the
judge cost is not.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skinfluence import influence_scores
from skinfluence.fidelity import leave_one_out_correlation, linear_datamodeling_score
from skinfluence.methods import GEX, METHODS, TDA, TRAK, BetaShapley, DataShapley, GradientMethod, TracIn
from skinfluence.models import as_model
from skinfluence.preconditioners import EKFACInverse
from skinfluence.snapshots import History, Seeds

from . import _data, _runner
from ._stored_parts import Parts

NET = "digits"
LINEAR = ("breast_cancer", "spambase", "phoneme")
TASKS = (*LINEAR, NET)
RANDOM, LOSS = "random", "per-row loss"
BASELINES = (RANDOM, LOSS)
SHAPLEY: dict[str, Callable[[int], Any]] = {
    "data_shapley": lambda n: DataShapley(n_permutations=n),
    "beta_shapley": lambda n: BetaShapley(n_permutations=n),
}
#: As first published, where the method's default is what the paper makes of it.
GEX_LOSS, SOURCE = "gex, losses", "tda, SOURCE"
#: Several models, as TRAK's paper has them. Only the fit of the net depends on a seed.
SEVERAL: dict[str, Any] = {
    "trak, 10 models": TRAK(snapshots=Seeds(10)),
    "ekfac, 10 models": GradientMethod(Seeds(10), EKFACInverse()),
}
VALUES = ("lds", "low", "high", "loo_spearman", "loo_pearson", "ratio", "seconds")
EVERY, RATE = 5, 0.1  # epochs between checkpoints of the net, and its learning rate
UNHURRIED, VERY_SLOW = 0.5, 5.0  # seconds; what is quicker is timed several times, what is slower in its first call
#: Other models, other data, and correlations validation row by validation row.
PUBLISHED = [
    {"source": "kronfluence, RTE", "method": "identity (IP)", "LDS": 0.10},
    {"source": "kronfluence, RTE", "method": "EKFAC", "LDS": 0.32},
    {"source": "dattri, MNIST, MLP", "method": "dot product (IP)", "LDS": 0.10},
    {"source": "dattri, MNIST, MLP", "method": "CG", "LDS": 0.26},
    {"source": "dattri, MNIST, MLP", "method": "TRAK-50", "LDS": 0.45},
]


@dataclass(frozen=True)
class Sizes:
    """How large tasks and judges are."""

    linear_rows: int = 300
    net_rows: int = 200
    val_rows: int = 150
    epochs: int = 30
    n_subsets: int = 100
    n_repeats: int = 5
    net_left_out: int = 50
    orders: int = 30
    n_resamples: int = 500
    rounds: int = 3
    left_out: tuple[str, ...] = ()


FULL = Sizes()
QUICK = Sizes(
    linear_rows=40, net_rows=40, val_rows=20, epochs=5, n_subsets=6, n_repeats=2, net_left_out=4, orders=2,
    n_resamples=20, rounds=1, left_out=("gex", GEX_LOSS, "lissa", "self_lissa"),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A fitted model with its rows, the training run of a net, and how often it is refitted."""

    name: str
    estimator: Any
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    history: History | None

    def score(self, name: str, sizes: Sizes, seed: int) -> np.ndarray:
        """The scores of a method or a baseline."""
        if name == RANDOM:
            return np.random.default_rng(seed).standard_normal(len(self.y))
        if name == LOSS:
            p = self.estimator.predict_proba(self.X)[np.arange(len(self.y)), np.searchsorted(self._classes(), self.y)]
            return np.log(np.maximum(p, np.finfo(float).tiny))
        method: Any = SHAPLEY[name](sizes.orders) if name in SHAPLEY else name
        if name == "gex":
            method = GEX(n_steps=800)  # the package's setting; by name alone it is "ip" on a linear model
        if name == GEX_LOSS:
            method = GEX(variant="loss")
        if self.history is not None:
            of_the_run = {
                "tracin": TracIn(self.history),
                "tda": TDA(checkpoints=self.history),
                SOURCE: TDA("source", self.history, n_segments=min(3, len(self.history))),
            }
            method = (of_the_run | SEVERAL).get(name, method)
        judges = () if name.startswith("self_") else (self.X_val, self.y_val)
        return influence_scores(self.estimator, self.X, self.y, *judges, method=method, random_state=seed)

    def _classes(self) -> np.ndarray:
        return np.asarray(self.estimator.classes_)


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All tasks and seeds, one core a part; parts that are stored are not made again."""
    seeds, sizes = ((0,), QUICK) if quick else (range(5), FULL)
    tasks = ("breast_cancer", NET) if quick else TASKS
    for name in {*tasks} - {"breast_cancer", NET}:  # fail before any work when a table is missing
        _data.data_file(f"tabular/{name}.csv.gz", data_home)
    made = (one_part, [(task, seed, sizes, data_home, quick) for task in tasks for seed in seeds])
    done = [one_part(*given) for given in made[1]] if quick else _runner.over_cores(*made)
    rows = _runner.aggregate((row for part, _ in done for row in part), ("data", "method"), VALUES)
    about = f"Seeds {', '.join(map(str, seeds))}; ± is the standard deviation over seeds."
    return {
        "about": _runner.about(__doc__, about),
        "seconds": round(sum(seconds for _, seconds in done), 1),
        "seeds": list(seeds),
        "orders": sizes.orders,
        "rows": rows,
    }


def one_part(
    task: str, seed: int, sizes: Sizes, data_home: str | None, quick: bool
) -> tuple[list[dict[str, Any]], float]:
    """The rows of a part, from the folder of stored parts if they are there, and the seconds that it took."""
    parts, name = Parts(None) if quick else Parts.of_environment(), f"fidelity-{task}-{seed}"
    make = partial(judged, task, seed, sizes, data_home)
    found: list[dict[str, Any]] = parts.rows(name, make, asdict(sizes))
    return found, parts.seconds[name]


def judged(name: str, seed: int, sizes: Sizes, data_home: str | None) -> list[dict[str, Any]]:
    """Every method on one task: its two correlations, by refits that all share, and its time."""
    with warnings.catch_warnings(), threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of fits cut short, and of nets whose solvers warn
        task = make_task(name, seed, sizes, data_home)
        methods = [m for m in (*BASELINES, *METHODS, GEX_LOSS) if m not in sizes.left_out]
        methods += [SOURCE, *SEVERAL] if name == NET else []
        calls = {method: partial(task.score, method, sizes, seed) for method in methods}
        calls["ip"]()  # imports, and what is kept for the next call
        rows = []
        for method, call in calls.items():
            scores, seconds, ratio = timed(call, calls["ip"], sizes.rounds)
            rows.append(
                {"data": name, "method": method, "seed": seed, "seconds": seconds, "ratio": ratio}
                | correlations(task, scores, sizes, seed, folder)
            )
    return rows


def timed(call: Callable[[], np.ndarray], ip: Callable[[], np.ndarray], rounds: int) -> tuple[np.ndarray, float, float]:
    """What a call gives, its median time and the median of its multiples of IP; once if it is very slow.

    The first call of others is not counted: imports, and what is kept for the next call, are in it.
    """
    base, _ = _seconds(ip)
    own, scores = _seconds(call)
    pairs = [(own, base)] if own > VERY_SLOW else []
    while not pairs or (len(pairs) < rounds and pairs[-1][0] <= UNHURRIED):
        base, _ = _seconds(ip)
        pairs.append((_seconds(call)[0], base))
    return scores, statistics.median(own for own, _ in pairs), statistics.median(own / base for own, base in pairs)


def _seconds(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def correlations(task: Task, scores: np.ndarray, sizes: Sizes, seed: int, folder: str) -> dict[str, float]:
    """LDS with its interval, and leave-one-out, of scores; the refits are kept in the folder."""
    data = (task.estimator, task.X, task.y, scores, task.X_val, task.y_val)
    common: dict[str, Any] = {"n_resamples": sizes.n_resamples, "random_state": seed, "checkpoint_dir": folder}
    common["n_repeats"] = sizes.n_repeats
    lds = linear_datamodeling_score(*data, n_subsets=sizes.n_subsets, **common)
    loo = leave_one_out_correlation(*data, n_rows=sizes.net_left_out if task.name == NET else None, **common)
    low, high = lds.confidence_interval
    pearson = float(pearsonr(loo.predicted, loo.actual)[0])
    return {"lds": lds.score, "low": low, "high": high, "loo_spearman": loo.score, "loo_pearson": pearson}


def make_task(name: str, seed: int, sizes: Sizes, data_home: str | None) -> Task:
    """A table or the digits, split by seed, and the model fitted to it."""
    if name in ("breast_cancer", NET):
        X, y = (load_digits if name == NET else load_breast_cancer)(return_X_y=True)
        n = sizes.net_rows if name == NET else sizes.linear_rows
        X, X_val, y, y_val = train_test_split(
            X, y, train_size=n, test_size=sizes.val_rows, stratify=y, random_state=seed
        )
    else:
        table = _data.load(name, seed=seed, flips=0.0, cap=sizes.linear_rows, data_home=data_home)
        X, y = table.X_train, table.y_train
        _, X_val, _, y_val = train_test_split(
            table.X_test, table.y_test, test_size=sizes.val_rows, stratify=table.y_test, random_state=seed
        )
    if name == NET:
        X, X_val = X / 16, X_val / 16
        mlp, history = fit_net(X, y, sizes.epochs, seed)
        return Task(name, mlp, X, y, X_val, y_val, history)
    scaler = StandardScaler().fit(X)
    X, X_val = scaler.transform(X), scaler.transform(X_val)
    return Task(name, LogisticRegression(tol=1e-8, max_iter=5000).fit(X, y), X, y, X_val, y_val, None)


def fit_net(X: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> tuple[MLPClassifier, History]:
    """A net trained epoch by epoch, and its checkpoints; its refits draw seeds of their own."""
    mlp = MLPClassifier(
        (16,), solver="sgd", learning_rate_init=RATE, batch_size=20, alpha=0.1, max_iter=epochs,
        n_iter_no_change=epochs + 1, random_state=seed,
    )  # fmt: skip
    params = []
    for epoch in range(1, epochs + 1):
        mlp.partial_fit(X, y, classes=np.unique(y))
        if epoch % EVERY == 0:
            params.append(np.array(as_model(mlp).model.params))
    return mlp.set_params(random_state=None), History(tuple(params), (EVERY * RATE,) * len(params))


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    rows = result["rows"]
    linear = [data for data in LINEAR if any(row["data"] == data for row in rows)]
    made = {
        "LDS": _wide(rows, "lds", result["orders"]),
        "Leave one out, Spearman": _wide(rows, "loo_spearman", result["orders"]),
        "Leave one out, Pearson": _wide(rows, "loo_pearson", result["orders"]),
        "Time, × ip": _wide(rows, "ratio", result["orders"], digits=1),
    }
    for data in (*linear, NET):
        made[f"In full, {data}"] = _in_full([row for row in rows if row["data"] == data], result["orders"])
    made["Published, other tasks: not comparable like for like"] = PUBLISHED
    return made


def _label(method: str, orders: int) -> str:
    return f"{method}, {orders} orders" if method in SHAPLEY else method


def _wide(rows: list[dict[str, Any]], value: str, orders: int, digits: int = 2) -> list[dict[str, Any]]:
    """A row a method, a column a task; the best mean LDS first."""
    found = {(row["method"], row["data"]): row for row in rows}
    tasks = [data for data in TASKS if any(row["data"] == data for row in rows)]
    methods = sorted(
        dict.fromkeys(row["method"] for row in rows),
        key=lambda m: -np.mean([found[m, data]["lds"]["mean"] for data in tasks if (m, data) in found]),
    )
    return [
        {"method": _label(method, orders)}
        | {
            f"{data}, net" if data == NET else data: _runner.figure(found[method, data][value], digits)
            if (method, data) in found
            else None
            for data in tasks
        }
        for method in methods
    ]


def _in_full(rows: list[dict[str, Any]], orders: int) -> list[dict[str, Any]]:
    return [
        {
            "method": _label(row["method"], orders),
            "LDS": _runner.figure(row["lds"], 2),
            "its 95 % interval, mean of seeds": f"{row['low']['mean']:.2f} to {row['high']['mean']:.2f}",
            "leave one out, Spearman": _runner.figure(row["loo_spearman"], 2),
            "leave one out, Pearson": _runner.figure(row["loo_pearson"], 2),
            "× ip": _runner.figure(row["ratio"], 1),
            "seconds": _runner.figure(row["seconds"], 4),
        }
        for row in sorted(rows, key=lambda row: -row["lds"]["mean"])
    ]
