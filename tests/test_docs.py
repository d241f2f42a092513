"""The documentation's code runs, does what the pages say, and the pages say what the package has."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import Exact
from skinfluence.models import as_model
from skinfluence.objectives import Utility
from skinfluence.operators import TrainingProblem

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.rst") if not {"_build", "api", "auto_examples", "_templates"} & set(p.parts))


def load(name):
    """A module of docs/code, or of docs itself."""
    path = DOCS / name
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


# --- code on the pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_the_examples_on_a_page_run(page):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert not failed, printed.getvalue()


def test_getting_started_prints_what_it_says():
    said = (DOCS / "code" / "getting_started.txt").read_text(encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        load("code/getting_started.py")
    assert printed.getvalue().splitlines() == [line for line in said.splitlines() if line and line[0] != "#"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_what_a_page_includes_is_there(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"\.\. literalinclude:: (\S+)\n((?:   :\S+:.*\n)*)", text):
        included = (page.parent / found[1]).resolve()
        content = included.read_text(encoding="utf-8")
        for marker in re.findall(r":(?:start-after|end-before): (.*)", found[2]):
            assert content.count(marker) == 1, f"{marker!r} in {included.name}"


@pytest.mark.parametrize("example", sorted((DOCS / "examples").glob("plot_*.py")), ids=lambda p: p.stem)
def test_an_example_is_one_that_the_gallery_can_show(example):
    # That it runs, the build of the documentation shows, which runs them all.
    tree = ast.parse(example.read_text(encoding="utf-8"))
    title, rule, *text = ast.get_docstring(tree).splitlines()
    assert set(rule) == {"="}
    assert len(rule) == len(title)
    assert any(line.strip() for line in text)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    drawn = {"subplots", "from_estimator", "from_scores", "from_curator"}
    assert used & drawn, "an example has a picture"


# --- how to add a method ----------------------------------------------------------------------------------------------


def test_the_diagonal_preconditioner_is_exact_where_the_hessian_is_diagonal():
    rng = np.random.RandomState(0)
    X = np.linalg.qr(rng.normal(size=(60, 4)))[0] * [1, 2, 3, 4]
    y = X @ rng.normal(size=4) + rng.normal(size=60)
    fitted = LinearRegression(fit_intercept=False).fit(X, y)
    scores = influence_scores(fitted, X, y, method=load("code/add_method.py").diagonal(damping=0.0))
    assert_allclose(scores, influence_scores(fitted, X, y, method="exact"), rtol=1e-8)


def test_the_diagonal_preconditioner_lies_between_ip_and_exact():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)[:, :5] * [1, 5, 0.2, 1, 1]
    clf = LogisticRegression().fit(X, y)
    method = load("code/add_method.py").diagonal()
    ip, between, exact = (influence_scores(clf, X, y, method=m) for m in ("ip", method, "exact"))
    assert np.corrcoef(ip, exact)[0, 1] < np.corrcoef(between, exact)[0, 1] < 1
    with pytest.raises(TypeError, match="DiagonalInverse"):
        influence_scores(Perceptron().fit(X, y), X, y, method=method)


def test_the_row_loss_is_minus_each_rows_loss():
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=1000).fit(X, y)
    method = load("code/add_method.py").RowLoss()
    by_hand = [log_loss(y[[i]], clf.predict_proba(X[[i]]), labels=[0, 1, 2]) for i in range(len(y))]
    assert_allclose(influence_scores(clf, X, y, method=method), -np.array(by_hand) / len(y))
    selector = InfluenceSelector(method=method, random_state=0).fit(X, y)
    assert selector.scores_.max() < 0
    with pytest.raises(ValueError, match="no measure of harm"):
        InfluenceSelector(method=method, removal_rate="auto").fit(X, y)


# --- how to add an objective ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_uncertainty_objective_has_the_gradient_of_its_value(n_classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < n_classes], y[y < n_classes]
    problem = TrainingProblem(as_model(LogisticRegression(C=0.1, max_iter=1000).fit(X, y)), X, y)
    module = load("code/add_objective.py")
    bound = module.Uncertainty().bind(problem, problem.rows, trusted=True, sensitive_features=None)
    P = problem.fitted.estimator.predict_proba(X)
    assert bound.value(problem.fitted.model) == pytest.approx(-(P * np.log(P)).sum(axis=1).mean())

    def value(params):
        return bound.value(problem.fitted.model.at(params))

    def gradient(params):
        return bound.gradients([params])[0]

    params = np.asarray(problem.params) * 0.7
    assert check_grad(value, gradient, params) < 1e-6
    assert np.linalg.norm(gradient(params)) > 1e-3
    scores = influence_scores(problem.fitted.estimator, X, y, method="exact", objective=module.Uncertainty())
    assert np.ptp(scores) > 0


def test_the_uncertainty_objective_says_what_it_cannot_do():
    X, y = load_diabetes(return_X_y=True)
    objective = load("code/add_objective.py").Uncertainty()
    with pytest.raises(TypeError, match="regressor"):
        influence_scores(LinearRegression().fit(X, y), X, y, objective=objective)
    y = y > 100
    with pytest.raises(ValueError, match="no weights"):
        influence_scores(LogisticRegression().fit(X, y), X, y, objective=objective, sample_weight=np.ones(len(y)))


# --- how to add a model family ----------------------------------------------------------------------------------------


def test_the_log_cosh_family_agrees_with_refits():
    module = load("code/add_model_family.py")
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[:80, :4], (y[:80] - y.mean()) / y.std()
    X, y, X_val, y_val = X[:50], y[:50], X[50:], y[50:]
    est = module.LogCoshRegressor().fit(X, y)
    problem = TrainingProblem(module.log_cosh_family(est), X, y)
    assert np.abs(problem.gradient(problem.params)).max() < 1e-6  # the estimator stands where its objective is least
    rows = problem.other_rows(X_val, y_val)
    objective = Utility().bind(problem, rows, trusted=True, sensitive_features=None)
    scores, _ = Exact().score_rows(problem, objective, None, np.random.RandomState(0), None)

    def loss(fitted):
        return module.log_cosh(fitted.predict(X_val) - y_val).mean()

    refits = [
        loss(module.LogCoshRegressor().fit(np.delete(X, i, axis=0), np.delete(y, i))) - loss(est) for i in range(50)
    ]
    assert np.corrcoef(scores, refits)[0, 1] > 0.99
    assert np.polyfit(scores, refits, 1)[0] == pytest.approx(1, abs=0.1)


# --- the checker ------------------------------------------------------------------------------------------------------


def test_the_checker_finds_broken_links(tmp_path):
    check = load("check.py")
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text('<a href="sub/b.html#there">x</a><img src="gone.png"><a href="#nowhere">y</a>')
    (tmp_path / "sub" / "b.html").write_text('<p id="there"><a href="../a.html">x</a><a href="https://else.org/">z</a>')
    broken = check.broken_links(tmp_path)
    assert_array_equal(broken, ["a.html: gone.png leads nowhere", "a.html: #nowhere has no such anchor"])
