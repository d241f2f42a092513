"""Hostile tables: every public entry answers with finite numbers or with an error that names the cause.

Nothing of the user's may be changed on the way. A few hundred cases run by default; the environment variable
``SKINFLUENCE_FUZZ`` sets another number for each test.
"""

from __future__ import annotations

import copy
import os
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from skinfluence import (
    CuratedClassifier,
    CuratedRegressor,
    HeldOut,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    influence_scores,
    make_pipeline,
)
from skinfluence.methods import GEX
from skinfluence.objectives import Utility

N_CASES = int(os.environ.get("SKINFLUENCE_FUZZ", "150"))
MANY = settings(
    max_examples=N_CASES, deadline=None, derandomize="SKINFLUENCE_FUZZ" not in os.environ, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip

CLASSIFIERS = [
    LogisticRegression(max_iter=50),
    LogisticRegression(C=1e6, max_iter=50),
    LogisticRegression(class_weight="balanced"),
    RidgeClassifier(),
    LinearSVC(dual=True, max_iter=100),  # the primal solver of liblinear does not always end
    SGDClassifier("log_loss", random_state=0, max_iter=20),
    Perceptron(max_iter=20),
    make_stock_pipeline(StandardScaler(), LogisticRegression(max_iter=50)),
]
REGRESSORS = [
    Ridge(), LinearRegression(), Lasso(0.1), ElasticNet(0.1), HuberRegressor(max_iter=20),
    PoissonRegressor(max_iter=20), make_stock_pipeline(StandardScaler(), Ridge()),
]  # fmt: skip
METHODS = [
    "ip", "ip_ensemble", "exact", "cg", "lissa", "arnoldi", "datainf", "ekfac", "self_tracin", "gex", "trak", "tda",
    "tracin", "self_lissa", "leave_one_out", "knn_shapley", "gex, members",
]  # fmt: skip
CONFIGURED = {"gex, members": GEX(n_steps=800)}  # by name alone it makes none for linear models
LOSSES = ["auto", "log_loss", "mae", "gce", "squared_error", "huber"]

# What an error may not say: it would come from deep within, and name no cause.
MEANINGLESS = (
    "broadcast", "out of bounds", "zero-size", "singular matrix", "not aligned", "mismatch in its core",
    "object has no attribute", "not subscriptable", "unhashable", "ufunc", "did not converge", "internal error",
    "Eigenvalues", "empty sequence", "unsupported operand", "list index",
)  # fmt: skip


def _plain(rng, n, d):
    return rng.standard_normal((n, d))


def _with_nan(rng, n, d):
    X = _plain(rng, n, d)
    X[rng.randint(n), rng.randint(d)] = np.nan
    return X


def _with_inf(rng, n, d):
    X = _plain(rng, n, d)
    X[rng.randint(n), rng.randint(d)] = rng.choice([-np.inf, np.inf])
    return X


def _with_one_huge(rng, n, d):
    X = _plain(rng, n, d)
    X[rng.randint(n), rng.randint(d)] = 10.0 ** rng.randint(3, 300)
    return X


def _of_all_sizes(rng, n, d):
    return _plain(rng, n, d) * 10.0 ** rng.uniform(-300, 150, size=d)


def _duplicated(rng, n, d):
    return np.repeat(_plain(rng, n, 1), d, axis=1)


TABLES = {
    "plain": _plain,
    "nan": _with_nan,
    "inf": _with_inf,
    "huge": _with_one_huge,
    "all_sizes": _of_all_sizes,
    "denormal": lambda rng, n, d: _plain(rng, n, d) * 5e-324,
    "constant": lambda rng, n, d: np.full((n, d), rng.choice([0.0, 1.0, -3.5, 1e8])),
    "duplicated": _duplicated,
    "same_rows": lambda rng, n, d: np.repeat(_plain(rng, 1, d), n, axis=0),
    "integers": lambda rng, n, d: rng.randint(-3, 4, size=(n, d)),
    "booleans": lambda rng, n, d: rng.rand(n, d) < 0.5,
    "float32": lambda rng, n, d: _plain(rng, n, d).astype(np.float32),
    "float16": lambda rng, n, d: _plain(rng, n, d).astype(np.float16),
    "complex": lambda rng, n, d: _plain(rng, n, d) + 1j,
    "objects": lambda rng, n, d: _plain(rng, n, d).astype(object),
    "strings": lambda rng, n, d: _plain(rng, n, d).astype(str),
    "dates": lambda rng, n, d: np.full((n, d), np.datetime64("2020-01-01")),
    "sparse": lambda rng, n, d: sp.random(n, d, density=0.5, format="csr", random_state=rng),
    "sparse_empty": lambda rng, n, d: sp.csr_array((n, d)),
    "coo": lambda rng, n, d: sp.random(n, d, density=0.5, format="coo", random_state=rng),
    "frame": lambda rng, n, d: pd.DataFrame(_plain(rng, n, d), columns=[f"c{i}" for i in range(d)]),
    "frame_mixed": lambda rng, n, d: pd.DataFrame({"a": rng.rand(n), "b": ["x"] * n, "c": pd.Timestamp("2020-01-01")}),
    "frame_nullable": lambda rng, n, d: pd.DataFrame({"a": pd.array([None, *range(n - 1)], dtype="Int64")}),
    "list": lambda rng, n, d: _plain(rng, n, d).tolist(),
    "one_dimension": lambda rng, n, d: rng.standard_normal(n),
    "three_dimensions": lambda rng, n, d: rng.standard_normal((n, d, 2)),
    "no_columns": lambda rng, n, d: np.empty((n, 0)),
    "no_rows": lambda rng, n, d: np.empty((0, d)),
    "fortran": lambda rng, n, d: np.asfortranarray(_plain(rng, n, d)),
    "readonly": lambda rng, n, d: _readonly(_plain(rng, n, d)),
    "none": lambda rng, n, d: None,
}


def _readonly(X):
    X.flags.writeable = False
    return X


LABELS = {
    "two": lambda rng, n: np.r_[0, 1, rng.randint(2, size=max(n - 2, 0))][:n],
    "three": lambda rng, n: np.r_[0, 1, 2, rng.randint(3, size=max(n - 3, 0))][:n],
    "strings": lambda rng, n: np.array(["no", "yes"])[np.r_[0, 1, rng.randint(2, size=max(n - 2, 0))][:n]],
    "objects": lambda rng, n: np.array(["no", "yes"], dtype=object)[np.r_[0, 1, rng.randint(2, size=n)][:n]],
    "booleans": lambda rng, n: np.r_[True, False, rng.rand(n) < 0.5][:n],
    "one_class": lambda rng, n: np.zeros(n, dtype=int),
    "rare": lambda rng, n: np.r_[1, np.zeros(n, dtype=int)][:n],
    "each_its_own": lambda rng, n: np.arange(n),
    "separated": lambda rng, n: np.arange(n) >= n // 2,
    "series": lambda rng, n: pd.Series(np.arange(n) % 2, index=np.arange(n)[::-1]),
    "nan": lambda rng, n: np.r_[np.nan, np.arange(n) % 2][:n],
    "mixed": lambda rng, n: np.array([0, "a", *([None] * n)][:n], dtype=object),
    "two_columns": lambda rng, n: np.arange(2 * n).reshape(n, 2) % 2,
    "column": lambda rng, n: (np.arange(n) % 2).reshape(n, 1),
    "short": lambda rng, n: np.arange(max(n - 1, 0)) % 2,
    "none": lambda rng, n: None,
}
TARGETS = {
    "plain": lambda rng, n: rng.standard_normal(n),
    "counts": lambda rng, n: rng.poisson(2.0, size=n).astype(float),
    "constant": lambda rng, n: np.ones(n),
    "huge": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.randint(0, 300),
    "denormal": lambda rng, n: rng.standard_normal(n) * 5e-324,
    "nan": lambda rng, n: np.r_[np.nan, rng.standard_normal(n)][:n],
    "inf": lambda rng, n: np.r_[np.inf, rng.standard_normal(n)][:n],
    "strings": lambda rng, n: np.array(["a", "b"])[np.arange(n) % 2],
    "two_columns": lambda rng, n: rng.standard_normal((n, 2)),
    "column": lambda rng, n: rng.standard_normal((n, 1)),
    "short": lambda rng, n: rng.standard_normal(max(n - 1, 0)),
    "list": lambda rng, n: rng.standard_normal(n).tolist(),
    "none": lambda rng, n: None,
}
WEIGHTS = {
    "none": lambda rng, n: None,
    "plain": lambda rng, n: rng.uniform(0.1, 2, size=n),
    "some_zero": lambda rng, n: rng.randint(2, size=n).astype(float),
    "zeros": lambda rng, n: np.zeros(n),
    "negative": lambda rng, n: rng.standard_normal(n),
    "nan": lambda rng, n: np.r_[np.nan, np.ones(n)][:n],
    "huge": lambda rng, n: np.r_[1e300, np.ones(n)][:n],
    "denormal": lambda rng, n: np.full(n, 5e-324),
    "short": lambda rng, n: np.ones(max(n - 1, 0)),
    "strings": lambda rng, n: np.array(["w"] * n),
    "number": lambda rng, n: 2.0,
}


# Every third thing or so is hostile, and most cases hold one or two of them: with more, the first hides the others.
def _mostly(first, rest):
    return st.one_of(st.just(first), st.sampled_from(sorted(rest)))


class Case:
    """A table with its target and weights, and rows to judge by; made of names and a seed, so that it prints well."""

    def __init__(self, data, targets):
        self.seed = data.draw(st.integers(0, 10_000), label="seed")
        self.n = data.draw(st.integers(1, 14), label="rows")
        d = data.draw(st.integers(1, 4), label="columns")
        rng = np.random.RandomState(self.seed)
        self.table = data.draw(_mostly("plain", TABLES), label="table")
        self.X = TABLES[self.table](rng, self.n, d)
        self.y = targets[data.draw(_mostly(next(iter(targets)), targets), label="target")](rng, self.n)
        self.weight = WEIGHTS[data.draw(_mostly("none", WEIGHTS), label="weight")](rng, self.n)
        self.X_val = self.y_val = None
        if data.draw(st.booleans(), label="validation rows"):
            m = data.draw(st.integers(1, 5), label="validation rows")
            width = d + data.draw(st.sampled_from([0, 0, 0, 1]), label="columns more")
            self.X_val = TABLES[data.draw(_mostly("plain", TABLES), label="validation table")](rng, m, width)
            self.y_val = targets[data.draw(_mostly(next(iter(targets)), targets), label="validation target")](rng, m)

    def given(self):
        return self.X, self.y, self.weight, self.X_val, self.y_val


def unchanged(given, copies):
    """Whether things are what their deep copies are."""
    for one, other in zip(given, copies, strict=True):
        if hasattr(one, "equals"):
            assert one.equals(other)
        elif sp.issparse(one):
            assert one.format == other.format
            np.testing.assert_array_equal(one.toarray(), other.toarray())
        elif isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other or (one is None and other is None)


def answered(call):
    """What a call returns, or None if it refused; any other end fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What overflows within is no matter for the user's console.
        warnings.filterwarnings("error", category=RuntimeWarning, module=r"skinfluence")
        try:
            return call()
        except (ValueError, TypeError) as error:
            message = str(error)
            if isinstance(error, np.linalg.LinAlgError) or any(part in message for part in MEANINGLESS) or not message:
                raise AssertionError(f"An error that names no cause: {type(error).__name__}: {message}") from error
            return None


def fitted_or_none(estimator, X, y, weight):
    """The estimator, fitted without the package; None where scikit-learn itself refuses."""
    name = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    extra = {} if weight is None else {f"{name}sample_weight": weight}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return copy.deepcopy(estimator).fit(X, y, **extra)
        except Exception:
            return None


def require_finite(scores, n):
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (n,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("task", ["classification", "regression"])
@MANY
@given(data=st.data())
def test_scores_are_finite_or_refused(task, data):
    case = Case(data, LABELS if task == "classification" else TARGETS)
    estimator = data.draw(st.sampled_from(CLASSIFIERS if task == "classification" else REGRESSORS), label="estimator")
    # Fitted on the table where scikit-learn takes it, otherwise on another: the rows scored are then strange to it.
    fitted = fitted_or_none(estimator, case.X, case.y, case.weight)
    if fitted is None:
        rng = np.random.RandomState(0)
        fitted = fitted_or_none(estimator, rng.standard_normal((9, 2)), np.arange(9) % 2, None)
    method = data.draw(_mostly("ip", METHODS), label="method")
    method = CONFIGURED.get(method, method)
    loss = data.draw(st.sampled_from(LOSSES), label="loss")
    copies, before = copy.deepcopy(case.given()), joblib.hash(vars(fitted))
    scores = answered(
        lambda: influence_scores(
            fitted, case.X, case.y, case.X_val, case.y_val, method=method, objective=Utility(loss=loss),
            sample_weight=case.weight, random_state=0,
        )
    )  # fmt: skip
    unchanged(case.given(), copies)
    assert joblib.hash(vars(fitted)) == before
    if scores is not None:
        require_finite(scores, case.n)


CURATORS = [
    InfluenceSelector(random_state=0),
    InfluenceSelector(method="exact", removal_rate="auto", random_state=0),
    InfluenceSelector(method="self_tracin", cv=None, removal_rate=0.4, random_state=0),
    InfluenceReweighter(random_state=0),
    InfluenceReweighter(method="ip", cv=2, random_state=0),
    InfluenceRelabeler(random_state=0),
    InfluenceRelabeler(method="exact", cv=3, random_state=0),
]


@pytest.mark.parametrize("task", ["classification", "regression"])
@MANY
@given(data=st.data())
def test_curators_act_or_refuse(task, data):
    case = Case(data, LABELS if task == "classification" else TARGETS)
    models = CLASSIFIERS if task == "classification" else REGRESSORS
    curator = copy.deepcopy(data.draw(st.sampled_from(CURATORS), label="curator"))
    curator.set_params(estimator=data.draw(st.sampled_from([None, *models]), label="estimator"))
    copies, before = copy.deepcopy(case.given()), repr(curator)
    done = answered(lambda: curator.fit(case.X, case.y, sample_weight=case.weight, X_val=case.X_val, y_val=case.y_val))
    unchanged(case.given(), copies)
    assert repr(curator) == before
    if done is None:
        return
    require_finite(curator.scores_, case.n)
    assert curator.support_.any()
    if getattr(curator, "sample_weight_", None) is not None:
        assert np.isfinite(curator.sample_weight_).all()
        assert (curator.sample_weight_ >= 0).all()
    if hasattr(curator, "classes_"):  # no class is emptied
        kept = np.asarray(case.y).ravel()[curator.support_]
        assert len(set(kept.tolist())) == len(curator.classes_)


@pytest.mark.parametrize("task", ["classification", "regression"])
@MANY
@given(data=st.data())
def test_homes_fit_or_refuse(task, data):
    case = Case(data, LABELS if task == "classification" else TARGETS)
    classify = task == "classification"
    model = data.draw(st.sampled_from([GaussianNB(), *CLASSIFIERS] if classify else REGRESSORS), label="model")
    curator = InfluenceSelector(method=data.draw(st.sampled_from(["ip", "exact"]), label="method"), random_state=0)
    home = data.draw(
        st.sampled_from(
            [
                (CuratedClassifier if classify else CuratedRegressor)(copy.deepcopy(model), curator),
                make_pipeline(curator, copy.deepcopy(model)),
                make_stock_pipeline(curator, copy.deepcopy(model)),
            ]
        ),
        label="home",
    )
    copies = copy.deepcopy(case.given())
    # The final model is scikit-learn's own: where it refuses what it is given alone, that is its word.
    alone = fitted_or_none(model, case.X, case.y, None)
    try:
        done = answered(lambda: home.fit(case.X, case.y))
    except (AssertionError, np.linalg.LinAlgError):
        if alone is not None:
            raise
        return
    unchanged(case.given(), copies)
    if done is None or alone is None or case.table == "dates":  # which scikit-learn fits on, and refuses to predict
        return
    with np.errstate(all="ignore"):
        assert len(home.predict(case.X)) == case.n


@MANY
@given(data=st.data())
def test_held_out_rows_are_taken_or_refused(data):
    case = Case(data, LABELS)
    X, y = np.random.RandomState(0).standard_normal((20, 3)), np.arange(20) % 2
    held_out = answered(lambda: HeldOut(case.X, case.y, case.weight))
    if held_out is None:
        return
    scores = answered(lambda: influence_scores(LogisticRegression().fit(X, y), X, y, held_out))
    if scores is not None:
        require_finite(scores, 20)


WRONG = st.sampled_from(
    [None, "nonsense", "", -1, 0, 2.5, float("nan"), float("inf"), True, [], {}, object, "auto", 1e9]
)
PARAMETERS = [
    "estimator", "method", "objective", "removal_rate", "n_rounds", "cv", "on_fit_transform", "n_jobs", "random_state",
]  # fmt: skip


@MANY
@given(name=st.sampled_from(PARAMETERS), value=WRONG)
def test_strange_parameters_are_taken_or_refused(name, value):
    X, y = np.random.RandomState(0).standard_normal((20, 2)), np.arange(20) % 2
    selector = answered(lambda: InfluenceSelector(random_state=0).set_params(**{name: value}).fit(X, y))
    if selector is not None:
        require_finite(selector.scores_, 20)


def test_an_unfitted_estimator_is_refused():
    X, y = np.random.RandomState(0).standard_normal((20, 2)), np.arange(20) % 2
    with pytest.raises(ValueError, match="not fitted"):
        influence_scores(LogisticRegression(), X, y)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_tables_are_what_they_say(name):
    # The hostile tables reach the code under test: they are made without error, and are no two the same.
    made = TABLES[name](np.random.RandomState(0), 6, 3)
    alike = {"plain", "readonly", "list", "fortran"}  # the same numbers, held otherwise
    others = [TABLES[o](np.random.RandomState(0), 6, 3) for o in TABLES if o != name and not {o, name} <= alike]
    assert joblib.hash(made) not in {joblib.hash(other) for other in others}
