"""Part "trees" of `beyond`: boosted trees as the final step, their rows curated through another model."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, Pipeline

from .. import _data
from . import _beyond_curators as curators

DATA = ("spambase", "electricity", "california_housing")
FLIPS = (0.0, 0.1, 0.3)
RATE = 0.05
#: Added to the names of methods that remove as large a share as was flipped.
AS_FLIPPED = ", as many as flipped"
BASELINES = (curators.LOSS, curators.CLEANLAB)
#: Ends of the names of what chooses how many rows to remove.
CHOOSING = (curators.CLEANLAB, "auto")
VALUES = ("accuracy", "balanced_accuracy", "majority", "removed", "auroc")
#: Surrogate, method and rate; the names say the first two.
SURROGATES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear, ip_ensemble": ("linear", {"removal_rate": RATE}),
    "linear, exact": ("linear", {"method": "exact", "removal_rate": RATE}),
    "linear, exact, auto": ("linear", {"method": "exact", "removal_rate": "auto"}),
    "MLP, ip_ensemble": ("mlp", {"removal_rate": RATE}),
}


def surrogate(kind: str) -> Any:
    """What the trees' rows are scored through."""
    if kind == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=40, batch_size=64, random_state=0))


def one_seed(data: str, flips: float, seed: int, cap: int, n_iter: int, data_home: Any) -> list[dict[str, Any]]:
    """What every curator does with one split."""
    table = _data.load(data, seed=seed, flips=flips, cap=cap, data_home=data_home)
    X, y = table.X_train, table.y_train
    trees = HistGradientBoostingClassifier(max_iter=n_iter, random_state=seed)
    outcomes = curators.quietly(curators.baselines, X, y, trees, seed, RATE)
    # What the surrogate knows by itself, without influence.
    of_surrogate = curators.quietly(curators.baselines, X, y, surrogate("linear"), seed, RATE)
    outcomes |= {f"linear, {name}": of_surrogate[name] for name in BASELINES if name in of_surrogate}
    fitted = {name: curators.retrained(trees, X, y, outcome) for name, outcome in outcomes.items()}
    for name, (kind, params) in SURROGATES.items():
        pipe = Pipeline(
            [("curate", InfluenceSelector(surrogate(kind), random_state=seed, **params)), ("trees", clone(trees))]
        )
        fitted[name] = curators.quietly(pipe.fit, X, y)
        outcomes[name] = curators.Outcome(pipe["curate"].get_support(), -pipe["curate"].scores_)
    if flips > RATE:
        ranked = [name for name, outcome in outcomes.items() if outcome.suspicion is not None]
        for name in (name for name in ranked if not name.endswith(CHOOSING)):
            more = outcomes[name].at_rate(flips)
            outcomes[name + AS_FLIPPED] = more
            fitted[name + AS_FLIPPED] = curators.retrained(trees, X, y, more)
    return [
        {"data": data, "flips": flips, "seed": seed, "method": name}
        | curators.judged(model, table.X_test, table.y_test)
        | curators.detected(outcomes[name], table.wrong)
        for name, model in fitted.items()
    ]
