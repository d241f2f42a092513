"""Objectives other than utility, in the homes: groups travel, goals combine, and the metrics are reported."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    CuratedClassifier,
    HeldOut,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    influence_scores,
    make_pipeline,
)
from skinfluence.metrics import demographic_parity_difference
from skinfluence.objectives import AdversarialRobustness, DemographicParity, Joint, Utility


@pytest.fixture(scope="module")
def biased():
    """Two groups, labels that favour one of them."""
    rng = np.random.RandomState(0)
    group = rng.randint(2, size=600)
    X = np.column_stack([rng.standard_normal((600, 3)), group + 0.3 * rng.standard_normal(600)])
    y = (X[:, 0] + 0.8 * group + rng.standard_normal(600) > 0.4).astype(int)
    return X, y, np.where(group == 1, "a", "b")


def gap(model, X, group):
    predicted = model.predict(X)
    return demographic_parity_difference(predicted, predicted, sensitive_features=group)


@pytest.mark.parametrize("action", [InfluenceSelector, InfluenceReweighter, InfluenceRelabeler])
def test_every_action_takes_every_goal(biased, action):
    X, y, group = biased
    for objective in ("demographic_parity", "equal_opportunity", "equalized_odds"):
        curator = action(objective=objective, method="exact", random_state=0).fit(X, y, sensitive_features=group)
        assert np.isfinite(curator.scores_).all()
    assert np.isfinite(action(objective="robustness", random_state=0).fit(X, y).scores_).all()


def test_curation_for_parity_narrows_the_gap(biased):
    X, y, group = biased
    plain = gap(LogisticRegression().fit(X, y), X, group)
    curator = InfluenceSelector(objective="demographic_parity", method="exact", removal_rate=0.1, random_state=0)
    model = CuratedClassifier(LogisticRegression(), curator).fit(X, y, sensitive_features=group)
    assert gap(model, X, group) < plain - 0.05


def test_soft_and_hard_gaps_are_reported(biased):
    X, y, group = biased
    selector = InfluenceSelector(LogisticRegression(), objective="demographic_parity", method="ip", cv=None)
    selector.fit(X, y, sensitive_features=group)
    (found,) = selector.diagnostics_[0]["objectives"]
    model = LogisticRegression().fit(X, y)
    P = model.predict_proba(X)[:, 1]
    assert_allclose(found["value"], abs(P[group == "a"].mean() - P[group == "b"].mean()))
    assert_allclose(found["hard_value"], gap(model, X, group))


@pytest.mark.parametrize("routing", [False, True])
def test_groups_travel_through_pipeline_and_search(biased, routing):
    X, y, group = biased
    with config_context(enable_metadata_routing=routing):
        curator = InfluenceSelector(objective="demographic_parity", method="ip", random_state=0)
        curator = curator.set_fit_request(sensitive_features=True) if routing else curator
        pipe = make_pipeline(StandardScaler(), curator, LogisticRegression())
        given = {("sensitive_features" if routing else "influenceselector__sensitive_features"): group}
        search = GridSearchCV(pipe, {"influenceselector__removal_rate": [0.0, 0.1]}, cv=3).fit(X, y, **given)
        best = clone(pipe).set_params(**search.best_params_).fit(X, y, **given)
    alone = InfluenceSelector(objective="demographic_parity", method="ip", random_state=0)
    alone.fit(StandardScaler().fit_transform(X), y, sensitive_features=group)
    assert_array_equal(best[1].scores_, alone.scores_)


def test_groups_of_validation_rows(biased):
    X, y, group = biased
    selector = InfluenceSelector(LogisticRegression(), objective=DemographicParity(), method="exact")
    one = clone(selector).fit(X[200:], y[200:], X_val=X[:200], y_val=y[:200], sensitive_features_val=group[:200])
    held_out = HeldOut(X[:200], y[:200], sensitive_features=group[:200])
    two = clone(selector).fit(X[200:], y[200:], X_val=held_out)
    expected = influence_scores(
        LogisticRegression().fit(X[200:], y[200:]),
        X[200:],
        y[200:],
        held_out,
        method="exact",
        objective=DemographicParity(),
    )
    assert_allclose(one.scores_, expected, rtol=1e-9)
    assert_array_equal(one.scores_, two.scores_)


def test_missing_groups_are_asked_for(biased):
    X, y, _ = biased
    with pytest.raises(ValueError, match="sensitive_features"):
        InfluenceSelector(objective="demographic_parity").fit(X, y)


def test_a_joint_goal_ranks_by_all_its_objectives(biased):
    X, y, group = biased
    joint = Joint([Utility(), DemographicParity()])
    selector = InfluenceSelector(objective=joint, method="exact", random_state=0).fit(X, y, sensitive_features=group)
    assert len(selector.scores_by_objective_) == 2
    alone = [
        InfluenceSelector(method="exact", random_state=0).fit(X, y).scores_,
        InfluenceSelector(objective=DemographicParity(), method="exact", random_state=0)
        .fit(X, y, sensitive_features=group)
        .scores_,
    ]
    for scores, expected in zip(selector.scores_by_objective_.values(), alone, strict=True):
        assert_allclose(scores, expected, rtol=1e-9)
    mean_rank = np.mean([rankdata(scores) for scores in alone], axis=0)
    assert_array_equal(np.argsort(selector.scores_, kind="stable"), np.argsort(mean_rank, kind="stable"))
    assert len(selector.diagnostics_[0]["objectives"]) == 2


def test_a_joint_goal_relabels(biased):
    X, y, group = biased
    joint = Joint([Utility(), DemographicParity()], weights=[2.0, 1.0])
    relabeler = InfluenceRelabeler(objective=joint, method="exact", random_state=0).fit(X, y, sensitive_features=group)
    assert relabeler.label_scores_.shape == (600, 2)
    assert relabeler.relabeled_.sum() > 0


def test_a_joint_ranking_has_no_sign(biased):
    X, y, group = biased
    selector = InfluenceSelector(objective=Joint([Utility(), DemographicParity()]), method="exact", removal_rate="auto")
    with pytest.raises(ValueError, match="no joint ranking"):
        selector.fit(X, y, sensitive_features=group)


def test_joint_scores_of_a_fitted_estimator(biased):
    X, y, _group = biased
    fitted = LogisticRegression().fit(X, y)
    parts = [
        influence_scores(fitted, X, y, method="ip_ensemble", random_state=0),
        influence_scores(fitted, X, y, method="ip_ensemble", objective=AdversarialRobustness(), random_state=0),
    ]
    joint = Joint([Utility(), AdversarialRobustness()])
    scores = influence_scores(fitted, X, y, method="ip_ensemble", objective=joint, random_state=0)
    assert_allclose(scores, joint.combine_scores(np.column_stack(parts)))


def test_parity_of_a_regression(biased):
    X, _y, group = biased
    target = X[:, 0] + (group == "a") + 0.1 * np.random.RandomState(1).standard_normal(600)
    selector = InfluenceSelector(
        Ridge(), objective="demographic_parity", method="exact", removal_rate=0.1, random_state=0
    )
    selector.fit(X, target, sensitive_features=group)

    def means_apart(rows):
        predicted = Ridge().fit(X[rows], target[rows]).predict(X)
        return abs(predicted[group == "a"].mean() - predicted[group == "b"].mean())

    assert means_apart(selector.support_) < means_apart(np.ones(600, dtype=bool))
