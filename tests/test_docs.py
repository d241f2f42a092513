"""The documentation's code runs, does what the pages say, and the pages say what the package has."""

from __future__ import annotations

import ast
import contextlib
import csv
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
MADE = {"_build", "api", "auto_examples", "results", "sg_execution_times.rst"}  # by the build
PAGES = sorted(p for p in DOCS.rglob("*.rst") if not {*MADE, "_templates"} & set(p.relative_to(DOCS).parts))
NEEDS = {
    "user_guide/homes.rst": ["imblearn"],
    "user_guide/large_data.rst": ["pandas", "pyarrow"],
    "user_guide/nets.rst": ["torch", "skorch"],
    "user_guide/plotting.rst": ["pandas"],
    "user_guide/saving.rst": ["skops"],
}


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
    for package in NEEDS.get(page.relative_to(DOCS).as_posix(), []):
        pytest.importorskip(package)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert not failed, printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_a_page_shows_no_code_that_nothing_runs(page):
    # Python stands on a page as a doctest, or is included from a file that the tests run.
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^ *\.\. (code-block|code|sourcecode):: *(python|pycon)", text, re.MULTILINE)
    run = re.sub(r"DOCS / |[()]", "", Path(__file__).read_text(encoding="utf-8"))
    for included in re.findall(r"\.\. literalinclude:: (\S+)", text):
        assert included.startswith("../../tests/") or f"code/{Path(included).stem}.py" in run, included


def test_getting_started_prints_what_it_says():
    said = (DOCS / "code" / "getting_started.txt").read_text(encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        load("code/getting_started.py")
    assert printed.getvalue().splitlines() == [line for line in said.splitlines() if line and line[0] != "#"]


def test_what_works_with_what_is_what_the_table_says():
    pytest.importorskip("torch")
    made = load("code/what_works.py")
    with made.FILE.open(encoding="utf-8", newline="") as file:
        assert made.table() == list(csv.reader(file))


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


def test_the_checker_sees_what_a_reader_could_not(tmp_path):
    pytest.importorskip("selenium")
    check = load("check.py")
    if check.shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and its driver")
    page = tmp_path / "page.html"
    driver = check.make_driver(str(tmp_path / "profile"))
    try:
        for body, says in {
            "<p style='width: 900px'>wide</p>": "is wider than 390 pixels",
            "<div style='overflow: hidden; width: 90px'><p style='width: 200px'>cut</p></div>": "is cut off",
            "<p style='font-size: 7px'>small</p>": "is in 7 px",
            "<p><math>x</math></p><style>math { display: block; height: 0; overflow: hidden }</style>": "is not drawn",
            "<img src='gone.png'>": "does not load",
            "<script>console.error('broken')</script><p>text</p>": "console",
            "<p>nothing is wrong</p>": None,
        }.items():
            head = "<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>"
            page.write_text(f"<!doctype html>{head}<body><article>{body}</article></body>")
            wrong = check.look_at(driver, page.as_uri(), check.WIDTHS["phone"], None)
            assert bool(wrong) == (says is not None), (body, wrong)
            assert says is None or any(says in line for line in wrong), (body, wrong)
    finally:
        driver.quit()


# --- what the pages are made with -------------------------------------------------------------------------------------


@pytest.fixture
def extension(monkeypatch):
    """Loads one of docs/_ext."""
    pytest.importorskip("sphinx")
    pytest.importorskip("markdown_it")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module


def test_figures_are_found_by_the_beginning_of_a_title_and_of_a_row(extension, monkeypatch):
    made = extension("benchmark_tables")
    tables = {"one (0.5)": [{"a": "x", "b": 1}, {"a": "y", "b": -2}], "other": [], "only": []}
    monkeypatch.setattr(made, "tables", lambda name: tables)
    rows = made.find_table("noise", "one")
    assert made.find_row(rows, "y / -2") == {"a": "y", "b": -2}
    with pytest.raises(LookupError, match="not one table 'o'"):
        made.find_table("noise", "o")
    with pytest.raises(LookupError, match="begins with 'z'"):
        made.find_row(rows, "z")
    with pytest.raises(LookupError, match="no benchmark 'noises'"):
        made.is_measured("noises")


def test_a_plan_goes_by_the_stored_rates(extension):
    rate = {"source": "memory map", "method": "ip", "columns": 50, "rows": 5_000_000, "seconds": 2.0}
    mapped, unknown = extension("large_plan").plan([rate | {"extra_mib": 1064.0}, rate | {"extra_mib": None}])
    assert mapped == {
        "rows are in": "memory map",
        "method": "ip",
        "columns": "50",
        "measured on rows": "5,000,000",
        "million rows a second": "2.50",
        "minutes": "6.7",  # 1e9 / 2.5e6 s = 400 s
        "GiB beside the targets": "8.5",  # 8e9 bytes of scores, and 1064 MiB without the 38 MiB of the scores measured
    }
    assert unknown["GiB beside the targets"] is None


MARKDOWN = """\
Before any heading.

# What *held*

Text with `code`, a [link](https://else.org/), one to [a file](other.md), and x < y.

- a point
- another

| method | gain |
| --- | ---: |
| **ip** | −0.5 ± 0.1 |
| exact | 1.5 |

![a dot](dot.png)

## Deeper

```python
1 + 1
```

# Next
"""


def test_markdown_becomes_sections(extension, tmp_path):
    nodes = pytest.importorskip("docutils.nodes")
    new_document = pytest.importorskip("docutils.utils").new_document
    settings = pytest.importorskip("docutils.frontend").get_default_settings()
    (tmp_path / "results").mkdir()
    source = tmp_path / "results" / "a.md"
    source.write_text(MARKDOWN, encoding="utf-8")
    (tmp_path / "results" / "dot.png").touch()
    read = extension("markdown_nodes").read
    before, held, after = read(source, tmp_path / "docs" / "page.rst", new_document("page", settings))
    assert before.astext() == "Before any heading."
    assert [section[0].astext() for section in (held, after)] == ["What held", "Next"]
    assert held["ids"] == ["what-held"]
    assert [link["refuri"] for link in held.findall(nodes.reference)] == ["https://else.org/"]
    assert "x < y" in held.astext()
    cells = [entry.astext() for entry in held.findall(nodes.entry)]
    assert cells == ["method", "gain", "ip", "−0.5 ± 0.1", "exact", "1.5"]
    assert "text-right" in list(held.findall(nodes.entry))[3]["classes"]
    assert [image["uri"] for image in held.findall(nodes.image)] == ["../results/dot.png"]
    assert [deeper[0].astext() for deeper in held.findall(nodes.section) if deeper is not held] == ["Deeper"]
    assert next(iter(held.findall(nodes.literal_block))).astext() == "1 + 1"
    (tmp_path / "results" / "dot.png").unlink()
    with pytest.raises(ValueError, match=r"there is no picture dot\.png"):
        read(source, tmp_path / "docs" / "page.rst", new_document("page", settings))


def test_every_figure_in_the_text_is_one_of_a_stored_result(extension):
    made = extension("benchmark_tables")
    texts = [page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.rst"))]
    roles = [found for text in texts for found in re.findall(r":bench:`([^`]+)`", text)]
    assert len(roles) > 50
    for argument in roles:
        name, title, key, column = (part.strip() for part in argument.split(" | "))
        if made.is_measured(name):
            assert made.find_row(made.find_table(name, title), key)[column] is not None, argument
