"""Nets where estimators live: curators, pipelines, grids, cross-validation. The seed alone decides."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline as StockPipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")

from skinfluence import (  # noqa: E402
    CuratedClassifier,
    CuratedRegressor,
    HeldOut,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    Pipeline,
    influence_scores,
)
from skinfluence.methods import LeaveOneOut  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .homes import Counted, N, Weighted, binary, classifier, regressor, table, targets  # noqa: E402


def selector(estimator=None, **options):
    return InfluenceSelector(estimator, **{"method": "ip", "removal_rate": 0.1, "cv": 2, "random_state": 0, **options})


def weights_of(net):
    return np.concatenate([p.detach().numpy().ravel() for p in net.module_.parameters()])


# --- scores in a curator ----------------------------------------------------------------------------------------------

EASY = {"tol": 10.0, "n_iter_no_change": 4}  # a few epochs, without a warning


def flat_targets():
    X, y = targets()
    return X, y[:, 0]


NETS = {
    "skorch": (classifier, table),
    "binary": (binary, lambda: (table()[0], table()[1].astype(np.float32))),
    "regressor": (regressor, targets),
    "mlp": (lambda: MLPClassifier(hidden_layer_sizes=6, **EASY), table),
    "mlp_regressor": (lambda: MLPRegressor(hidden_layer_sizes=6, **EASY), flat_targets),
    "last_layer": (lambda: DifferentiableNet(classifier(), parameters="last_layer"), table),
    "pipeline": (lambda: StockPipeline([("scale", StandardScaler()), ("net", classifier())]), table),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_scores_of_a_curator_are_those_of_its_estimator(name):
    make, rows = NETS[name]
    X, y = rows()
    curator = selector(make(), removal_rate=0.2).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    wanted = influence_scores(curator.estimator_, X[:60], y[:60], X[60:], y[60:])
    np.testing.assert_allclose(curator.scores_, wanted, rtol=1e-6)
    assert curator.support_.sum() == 48
    assert curator.scores_[~curator.support_].max() <= curator.scores_[curator.support_].min()
    assert curator.engine_ == "forward"
    assert "forward" in curator._repr_html_()


@pytest.mark.parametrize("name", NETS)
def test_cross_fitted_scores(name):
    make, rows = NETS[name]
    X, y = rows()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = selector(make()).fit(X, y)
    assert torch.equal(before, torch.get_rng_state())
    assert np.isfinite(found.scores_).all()
    assert len(found.diagnostics_) == 2
    assert found.estimator_.predict(X[:3]).shape[0] == 3  # refitted on the rows that were kept
    again = selector(make()).fit(X, y)
    np.testing.assert_array_equal(again.scores_, found.scores_)
    assert not np.array_equal(selector(make(), random_state=1).fit(X, y).scores_, found.scores_)


def test_a_frozen_net_is_scored_as_it_is():
    X, y = table()
    torch.manual_seed(0)
    net = classifier().fit(X, y)
    before = weights_of(net)
    curator = selector(FrozenEstimator(net), cv=5).fit(X, y)
    np.testing.assert_allclose(curator.scores_, influence_scores(net, X, y), rtol=1e-6)
    np.testing.assert_array_equal(weights_of(net), before)


def test_rounds_of_a_net():
    X, y = table()
    once, twice = selector(classifier()).fit(X, y), selector(classifier(), n_rounds=2).fit(X, y)
    assert not np.array_equal(once.scores_, twice.scores_)
    assert twice.support_.sum() == once.support_.sum() == 72


# --- the same seed, the same scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_any_number_of_jobs(backend):
    X, y = table()
    expected = selector(classifier(), method="ip_ensemble", cv=4).fit(X, y).scores_
    with joblib.parallel_config(backend=backend):
        found = selector(classifier(), method="ip_ensemble", cv=4, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(found.scores_, expected)


def test_many_threads_at_once():
    X, y = table()

    def scores(seed):
        return selector(classifier(), random_state=seed).fit(X, y).scores_

    torch.manual_seed(5)
    before = torch.get_rng_state()
    expected = list(map(scores, range(4)))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(scores, range(4)))
    np.testing.assert_array_equal(found, expected)
    assert torch.equal(before, torch.get_rng_state())


def test_linear_fits_beside_nets_leave_torch_alone():
    X, y = table()

    def scores(seed):
        return selector(classifier() if seed % 2 else LogisticRegression(), random_state=seed).fit(X, y).scores_

    torch.manual_seed(5)
    before = torch.get_rng_state()
    expected = list(map(scores, range(6)))
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(scores, range(6)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert torch.equal(before, torch.get_rng_state())


def test_refits_of_nets_in_threads():
    X, y = table()
    X, y = X[:12], y[:12]
    torch.manual_seed(0)
    net = classifier(max_epochs=1).fit(X, y)
    expected = influence_scores(net, X, y, X, y, method=LeaveOneOut(), random_state=0)
    with joblib.parallel_config(backend="threading"):
        found = influence_scores(net, X, y, X, y, method=LeaveOneOut(), random_state=0, n_jobs=2)
    np.testing.assert_array_equal(found, expected)


# --- pipelines --------------------------------------------------------------------------------------------------------


def test_a_net_chooses_rows_for_a_linear_model():
    X, y = table()
    pipe = Pipeline([("scale", StandardScaler()), ("curate", selector(classifier())), ("clf", LogisticRegression())])
    pipe.fit(X, y)
    kept = pipe.sample_indices_
    assert len(kept) == 72
    scaled = pipe["scale"].transform(X)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(pipe["curate"].scores_, selector(classifier()).fit(scaled, y).scores_)
    np.testing.assert_allclose(pipe["clf"].coef_, LogisticRegression().fit(scaled[kept], y[kept]).coef_)


def test_a_net_chooses_its_own_rows():
    """estimator="final": the net that follows is the one that rows are scored by, and it is fitted on what is kept."""
    X, y = table()
    curate = selector("final")
    torch.manual_seed(0)
    pipe = Pipeline([("scale", StandardScaler()), ("curate", curate), ("net", classifier())]).fit(X, y)
    scaled = pipe["scale"].transform(X)
    np.testing.assert_array_equal(pipe["curate"].scores_, selector(classifier()).fit(scaled, y).scores_)
    torch.manual_seed(0)
    kept = pipe.sample_indices_
    alone = classifier().fit(scaled[kept], y[kept])
    np.testing.assert_array_equal(weights_of(pipe["net"]), weights_of(alone))
    assert pipe.predict_proba(X).shape == (N, 2)
    assert pipe.score(X, y) > 0.5


def test_steps_that_follow_are_a_part_of_the_final_model():
    X, y = table()
    pipe = Pipeline([("curate", selector("final")), ("scale", StandardScaler()), ("net", classifier())]).fit(X, y)
    inner = StockPipeline([("scale", StandardScaler()), ("net", classifier())])
    np.testing.assert_array_equal(pipe["curate"].scores_, selector(inner).fit(X, y).scores_)


def test_validation_rows_travel_through_the_steps():
    X, y = table()
    pipe = Pipeline([("scale", StandardScaler()), ("curate", selector("final")), ("net", classifier())])
    pipe.fit(X[:60], y[:60], curate__X_val=HeldOut(X[60:], y[60:]))
    scale = pipe["scale"].transform
    direct = selector(classifier()).fit(scale(X[:60]), y[:60], X_val=scale(X[60:]), y_val=y[60:])
    np.testing.assert_array_equal(pipe["curate"].scores_, direct.scores_)


def test_frames_go_through_a_scaler_to_a_net():
    X, y = table()
    frame, series = pd.DataFrame(X, index=np.arange(N) + 7, columns=list("abcde")), pd.Series(y, index=np.arange(N) + 7)
    steps = [("scale", StandardScaler()), ("curate", selector("final")), ("net", classifier())]
    wanted = Pipeline(steps).fit(X, y)["curate"].scores_.copy()
    torch.manual_seed(0)
    pipe = clone(Pipeline(steps)).fit(frame, series)
    np.testing.assert_array_equal(pipe["curate"].scores_, wanted)


@pytest.mark.parametrize("curator", [selector, InfluenceReweighter], ids=["selector", "reweighter"])
def test_stock_pipelines_re_draw(curator):
    X, y = table()
    curator = curator(classifier(), method="ip", cv=2, random_state=0)
    torch.manual_seed(0)
    pipe = StockPipeline([("scale", StandardScaler()), ("curate", curator), ("net", classifier())]).fit(X, y)
    redrawn = clone(curator).fit_transform(pipe["scale"].transform(X), y)
    assert redrawn.shape == X.shape
    torch.manual_seed(0)
    np.testing.assert_array_equal(weights_of(pipe["net"]), weights_of(classifier().fit(redrawn, y)))


def test_stock_pipelines_refuse_a_continuous_target():
    X, y = targets()
    pipe = StockPipeline([("curate", selector(regressor())), ("net", regressor())])
    with pytest.raises(ValueError, match="A stock scikit-learn Pipeline cannot drop rows"):
        pipe.fit(X, y)


def test_imbalanced_learns_pipeline():
    imblearn = pytest.importorskip("imblearn.pipeline")
    X, y = table()
    torch.manual_seed(0)
    steps = [("scale", StandardScaler()), ("curate", selector(classifier()).as_sampler()), ("net", classifier())]
    pipe = imblearn.Pipeline(steps).fit(X, y)
    torch.manual_seed(0)
    ours = Pipeline([("scale", StandardScaler()), ("curate", selector(classifier())), ("net", classifier())]).fit(X, y)
    np.testing.assert_array_equal(pipe["curate"].sample_indices_, ours.sample_indices_)
    np.testing.assert_array_equal(weights_of(pipe["net"]), weights_of(ours["net"]))


@pytest.mark.parametrize("final", ["final", "given"])
def test_curated_classifiers(final):
    X, y = table()
    curator = selector("final" if final == "final" else classifier())
    torch.manual_seed(0)
    model = StockPipeline([("scale", StandardScaler()), ("net", CuratedClassifier(classifier(), curator))]).fit(X, y)
    scaled, curated = model["scale"].transform(X), model["net"]
    np.testing.assert_array_equal(curated.curator_.scores_, selector(classifier()).fit(scaled, y).scores_)
    torch.manual_seed(0)
    kept = curated.curator_.sample_indices_
    alone = classifier().fit(scaled[kept], y[kept])
    np.testing.assert_array_equal(model.predict_proba(X), alone.predict_proba(scaled))
    np.testing.assert_array_equal(model.classes_, [0, 1])


def test_curated_regressors():
    X, y = targets()
    torch.manual_seed(0)
    model = CuratedRegressor(regressor(), selector("final")).fit(X, y)
    kept = model.curator_.sample_indices_
    assert len(kept) == 72
    torch.manual_seed(0)
    alone = regressor().fit(X[kept], y[kept])
    np.testing.assert_array_equal(model.predict(X), alone.predict(X))


def test_classes_of_a_mlp_may_be_strings():
    X, codes = table(3)
    y = np.array(["low", "mid", "top"])[codes]
    mlp = MLPClassifier(hidden_layer_sizes=6, **EASY, random_state=0)
    pipe = Pipeline([("scale", StandardScaler()), ("curate", selector("final")), ("net", mlp)]).fit(X, y)
    coded = clone(pipe).fit(X, codes)
    np.testing.assert_allclose(pipe["curate"].scores_, coded["curate"].scores_, rtol=1e-9)
    assert set(pipe.predict(X)) <= {"low", "mid", "top"}


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["pipeline", "curated"])
def test_a_net_without_weights_is_refused_before_anything_is_fitted(home):
    X, y = table()
    reweighter = InfluenceReweighter(classifier(Counted), method="ip", cv=2, random_state=0)
    net = classifier(Counted)
    model = (
        Pipeline([("curate", reweighter), ("net", net)]) if home == "pipeline" else CuratedClassifier(net, reweighter)
    )
    Counted.fits = 0
    with pytest.raises(TypeError, match="takes no sample_weight"):
        model.fit(X, y)
    assert Counted.fits == 0


def test_a_net_may_weigh_the_rows_of_others():
    X, y = table()
    reweighter = InfluenceReweighter(classifier(), method="ip", cv=2, random_state=0)
    pipe = Pipeline([("curate", reweighter), ("clf", LogisticRegression())]).fit(X, y)
    weight = pipe["curate"].sample_weight_
    np.testing.assert_allclose(weight.mean(), 1)
    np.testing.assert_allclose(pipe["clf"].coef_, LogisticRegression().fit(X, y, sample_weight=weight).coef_)
    assert not hasattr(reweighter, "estimator_")


def test_a_net_that_takes_weights_gets_them():
    X, y = table()
    reweighter = InfluenceReweighter("final", method="ip", cv=2, random_state=0)
    torch.manual_seed(0)
    pipe = Pipeline([("curate", reweighter), ("net", classifier(Weighted))]).fit(X, y)
    torch.manual_seed(0)
    alone = classifier(Weighted).fit(X, y, sample_weight=pipe["curate"].sample_weight_)
    np.testing.assert_array_equal(weights_of(pipe["net"]), weights_of(alone))


def test_weights_for_a_net_that_takes_none():
    X, y = table()
    with pytest.raises(TypeError, match="sample_weight was given, but NeuralNetClassifier takes none in fit"):
        selector(classifier()).fit(X, y, sample_weight=np.ones(N))


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "mlp"])
def test_every_label_is_scored(kind):
    n_classes = 2 if kind == "sigmoid" else 3
    X, y = table(n_classes)
    y = y.astype(np.float32) if kind == "sigmoid" else y
    net = {
        "softmax": lambda: classifier(module__n_outputs=3),
        "sigmoid": binary,
        "mlp": lambda: MLPClassifier(hidden_layer_sizes=6, **EASY),
    }[kind]()
    relabeler = InfluenceRelabeler(net, method="ip", relabel_rate=0.2, random_state=0)
    relabeler.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    rows = np.arange(60)
    for shift in range(n_classes):
        other = ((y[:60] + shift) % n_classes).astype(y.dtype)
        wanted = influence_scores(relabeler.estimator_, X[:60], other, X[60:], y[60:])
        np.testing.assert_allclose(relabeler.label_scores_[rows, other.astype(int)], wanted, rtol=1e-5, atol=1e-9)
    changed = relabeler.relabeled_
    assert changed.any()
    np.testing.assert_array_equal(
        relabeler.y_[changed], relabeler.classes_[relabeler.label_scores_[changed].argmax(axis=1)]
    )


def test_new_labels_reach_the_net():
    X, y = table()
    relabeler = InfluenceRelabeler("final", method="ip", relabel_rate=0.2, cv=2, random_state=0)
    torch.manual_seed(0)
    pipe = Pipeline([("curate", relabeler), ("net", classifier())]).fit(X, y)
    assert (pipe["curate"].y_ != y).any()
    torch.manual_seed(0)
    np.testing.assert_array_equal(weights_of(pipe["net"]), weights_of(classifier().fit(X, pipe["curate"].y_)))


# --- searches ---------------------------------------------------------------------------------------------------------


def test_a_grid_over_the_rate_and_over_both_nets(tmp_path):
    X, y = table()
    pipe = Pipeline(
        [
            ("scale", StandardScaler()),
            ("curate", selector(classifier(), memory=str(tmp_path))),
            ("clf", classifier(max_epochs=2)),
        ]
    )
    grid = {"curate__removal_rate": [0.0, 0.1], "curate__estimator__lr": [0.05, 0.2], "clf__lr": [0.1, 0.3]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_["clf"].lr == search.best_params_["clf__lr"]
    assert len(search.best_estimator_.sample_indices_) == N - int(N * search.best_params_["curate__removal_rate"])


def test_a_grid_over_rates_scores_once_for_each_fold(tmp_path):
    X, y = table()
    pipe = Pipeline([("curate", selector(classifier(Counted), memory=str(tmp_path))), ("clf", LogisticRegression())])
    Counted.fits = 0
    GridSearchCV(pipe, {"curate__removal_rate": [0.0, 0.1, 0.2]}, cv=2, refit=False).fit(X, y)
    assert Counted.fits == 4  # two folds of the search, two of the cross-fitting


def test_a_grid_over_what_is_differentiated():
    X, y = table()
    wrapped = DifferentiableNet(classifier(), parameters="last_layer")
    pipe = Pipeline([("curate", selector(wrapped)), ("clf", LogisticRegression())])
    grid = {
        "curate__estimator__parameters": ["all", "last_layer", "bias"],
        "curate__estimator__net__module__width": [4, 6],
    }
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # What is not differentiated is fitted all the same.
    params = search.best_params_
    assert (
        search.best_estimator_["curate"].estimator.net.module__width == params["curate__estimator__net__module__width"]
    )


def test_a_wrapped_net_at_the_end_of_a_pipeline():
    X, y = table()
    torch.manual_seed(0)
    wrapped = DifferentiableNet(classifier(), parameters="last_layer")
    pipe = Pipeline([("curate", selector("final")), ("net", wrapped)]).fit(X, y)
    np.testing.assert_array_equal(pipe["curate"].scores_, selector(clone(wrapped)).fit(X, y).scores_)
    assert pipe.predict_proba(X).shape == (N, 2)
    np.testing.assert_array_equal(pipe.classes_, [0, 1])
    assert 0 <= pipe.score(X, y) <= 1


def test_cross_validation_in_jobs():
    X, y = table()
    pipe = Pipeline([("scale", StandardScaler()), ("curate", selector("final")), ("net", classifier(max_epochs=2))])
    scores = cross_val_score(pipe, X, y, cv=3, n_jobs=2)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_clones_share_nothing():
    curator = selector(DifferentiableNet(classifier(), parameters="last_layer"))
    copied = clone(curator)
    assert copied.estimator is not curator.estimator
    assert copied.estimator.net is not curator.estimator.net
    assert copied.get_params()["estimator__net__lr"] == 0.2
    copied.set_params(estimator__net__lr=0.5, estimator__parameters="all")
    assert curator.estimator.net.lr == 0.2


def test_a_net_that_has_not_converged_warns_as_it_would_alone():
    X, y = table()
    with pytest.warns(ConvergenceWarning):
        selector(MLPClassifier(hidden_layer_sizes=6, max_iter=2)).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selector(MLPClassifier(hidden_layer_sizes=6, **EASY)).fit(X, y)
