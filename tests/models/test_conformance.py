"""Every linear family against its documented objective, finite differences, dense gradients and dense Hessians.

The reference (see `reference`) is first pinned to scikit-learn itself: its gradient vanishes where the solver stopped,
under every weighting the family accepts. The package is then held against the reference.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from skinfluence import influence_scores
from skinfluence.methods import Exact
from skinfluence.models import as_model
from skinfluence.objectives import Utility
from skinfluence.operators import TrainingProblem

from . import reference as ref
from .cases import BY_ID, CASES, PLAIN, SKLEARN, Case, Fit, Weighting, fit, make_data

GRID = [(case, weighting) for case in CASES for weighting in case.weightings]
SMOOTH_GRID = [(case, weighting) for case, weighting in GRID if case.smooth != "kinked"]
METHODS_WITHOUT_HESSIAN = ("ip", "ip_ensemble", "self_tracin", "leave_one_out")


def over(grid):
    """Parametrize over (case, weighting) pairs."""
    return pytest.mark.parametrize(
        ("case", "weighting"), [pytest.param(*pair, id="-".join(map(str, pair))) for pair in grid]
    )


def over_cases(cases):
    """Parametrize over cases."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in cases])


@functools.cache
def build(case: Case, weighting: Weighting = PLAIN):
    """The fitted case, its FittedModel and its TrainingProblem."""
    fitted = fit(case, weighting)
    model = as_model(fitted.estimator)
    return fitted, model, TrainingProblem(model, fitted.data.X, fitted.data.y, fitted.sample_weight)


@functools.cache
def unit_of(case: Case, weighting: Weighting = PLAIN) -> float:
    """The constant between the package's objective and the reference's, measured where it is not one by convention."""
    fitted, _, problem = build(case, weighting)
    if fitted.unit:
        return 1.0
    one, two = fitted.moved(1), fitted.moved(2)
    return (problem.value(one) - problem.value(two)) / (fitted.objective.value(one) - fitted.objective.value(two))


def direction(fitted: Fit, seed: int = 7) -> np.ndarray:
    """A random direction along the free coordinates."""
    return np.random.default_rng(seed).normal(size=len(fitted.theta)) * fitted.free


def assert_close(actual, desired, *, rtol: float = 1e-6, case_scale: float | None = None) -> None:
    """Equal to `rtol` of the largest entry."""
    scale = np.max(np.abs(desired)) if case_scale is None else case_scale
    assert_allclose(actual, desired, rtol=0, atol=rtol * max(scale, 1e-8))


# --- the reference, and scikit-learn --------------------------------------------------------------


def _gradient_scale(fitted: Fit) -> float:
    return float(np.abs(fitted.row_gradients).sum(axis=0).max())


@over((case, weighting) for case, weighting in SMOOTH_GRID if case.minimum)
def test_the_reference_is_what_scikit_learn_minimises(case, weighting):
    """The documented objective, all weights in it, has no slope left where the solver stopped."""
    fitted = fit(case, weighting)
    slope = np.abs(fitted.objective.gradient(fitted.theta)[fitted.free]).max() / _gradient_scale(fitted)
    assert slope < (0.03 if case.minimum == "near" else max(10 * case.gradient_tolerance, 1e-5))


# --- the objective --------------------------------------------------------------------------------


@over(GRID)
def test_the_parameters_are_those_of_the_estimator(case, weighting):
    fitted, model, problem = build(case, weighting)
    assert_allclose(model.model.params, fitted.theta, rtol=1e-12)
    assert problem.n_params == len(fitted.theta)
    assert_array_equal(problem.free, fitted.free)


@over(GRID)
def test_the_value_is_the_documented_objective(case, weighting):
    """To the unit the package states, and to a term of the targets alone where the loss is a deviance."""
    fitted, _, problem = build(case, weighting)
    points = [fitted.theta, fitted.moved(1), fitted.moved(2), fitted.moved(3)]
    ours = np.array([problem.value(point) for point in points])
    theirs = unit_of(case, weighting) * np.array([fitted.objective.value(point) for point in points])
    assert unit_of(case, weighting) > 0
    assert_close(np.diff(ours), np.diff(theirs), rtol=1e-8)
    if case.link is None and fitted.unit:
        assert_close(ours, theirs, rtol=1e-9)


@over((case, weighting) for case, weighting in SMOOTH_GRID if case.minimum)
def test_the_gradient_vanishes_at_the_fit(case, weighting):
    fitted, _, problem = build(case, weighting)
    slope = np.abs(problem.gradient(fitted.theta)[fitted.free]).max() / (
        _gradient_scale(fitted) * unit_of(case, weighting)
    )
    assert slope < (0.03 if case.minimum == "near" else case.gradient_tolerance)


@over((case, weighting) for case, weighting in GRID if case.minimum)
def test_no_step_from_the_fit_goes_down(case, weighting):
    """A minimum, of kinked losses too: along every axis, along the parameters, and along random directions."""
    fitted, _, problem = build(case, weighting)
    theta = fitted.theta
    exact = case.minimum == "exact"
    moves = [*np.eye(len(theta)), theta, *np.random.default_rng(5).normal(size=(5, len(theta)))]
    steps = [sign * (1e-3 if exact else 0.2) * move for move in moves for sign in (-1, 1)]
    if case.zeros == "pruned":
        steps = [step * fitted.free for step in steps]
    if case.zeros == "bound":
        steps = [step for step in steps if np.all(fitted.objective.split(theta + step)[0] >= 0)]
    # A solver stops within its own tolerance, and an SGD fit within a few hundredths of the minimum.
    slack = 1e-3 * case.gradient_tolerance if exact else 2e-3
    lowest = min(problem.value(theta + step) for step in steps) - problem.value(theta)
    assert lowest > -slack * max(1.0, problem.value(theta))


@over(GRID)
def test_the_row_values_are_the_losses(case, weighting):
    fitted, _, problem = build(case, weighting)
    values = [problem.row_values(fitted.moved(seed)) for seed in (1, 2)]
    assert all(value.shape == (len(fitted.data.y),) for value in values)
    if weighting.class_weight is None:
        expected = [fitted.objective.row_losses(fitted.moved(seed)) for seed in (1, 2)]
        assert_close(values[0] - values[1], expected[0] - expected[1], rtol=1e-8)


# --- the derivatives ------------------------------------------------------------------------------


@over(GRID)
def test_the_gradient_is_the_slope_of_the_value(case, weighting):
    fitted, _, problem = build(case, weighting)
    theta, free = fitted.moved(1), fitted.free
    slope = ref.jacobian(problem.value, theta, fitted.objective.step)
    scale = unit_of(case, weighting) * _gradient_scale(fitted)
    assert_close(problem.gradient(theta)[free], slope[free], case_scale=scale)
    expected = unit_of(case, weighting) * fitted.objective.gradient(theta)
    assert_close(problem.gradient(theta)[free], expected[free], case_scale=scale)


@over(SMOOTH_GRID)
def test_the_hessian_is_the_slope_of_the_gradient(case, weighting):
    fitted, _, problem = build(case, weighting)
    theta, free, v = fitted.moved(1), fitted.free, direction(fitted)
    slope = ref.directional(problem.gradient, theta, v, min(fitted.objective.step, 1e-4))
    assert_close((problem.hessian(theta) @ v)[free], slope[free], rtol=1e-5)


@over_cases(case for case in CASES if case.smooth != "kinked")
def test_the_hessian_is_a_symmetric_operator(case):
    fitted, _, problem = build(case)
    hessian = problem.hessian(fitted.moved(1))
    v, w = direction(fitted, 1), direction(fitted, 2)
    assert hessian.shape == (problem.n_params, problem.n_params)
    assert_allclose((hessian @ v) @ w, v @ (hessian @ w), rtol=1e-9, atol=1e-12)
    assert_allclose(
        hessian @ np.column_stack([v, w]), np.column_stack([hessian @ v, hessian @ w]), rtol=1e-9, atol=1e-12
    )


@over(GRID)
def test_row_products_are_products_with_dense_row_gradients(case, weighting):
    fitted, _, problem = build(case, weighting)
    theta = fitted.moved(1)
    v = np.random.default_rng(3).normal(size=len(theta))
    expected = unit_of(case, weighting) * fitted.objective.row_gradients(theta) @ v
    assert_close(problem.row_products(v, theta), expected)


# --- the model ------------------------------------------------------------------------------------


@over_cases(CASES)
def test_jvp_is_the_slope_of_the_outputs_and_vjp_its_adjoint(case):
    fitted, model, _ = build(case)
    X, rng = model.prepare(fitted.data.X), np.random.default_rng(4)
    v = rng.normal(size=len(fitted.theta))
    jvp = model.model.jvp(X, v)
    assert_close(jvp, ref.directional(lambda theta: model.model.at(theta).outputs(X), fitted.theta, v, 0.1), rtol=1e-9)
    cotangents = rng.normal(size=jvp.shape)
    assert_allclose(np.sum(jvp * cotangents), v @ model.model.vjp(X, cotangents), rtol=1e-9)


@over_cases(CASES)
def test_at_makes_another_model_and_leaves_this_one(case):
    fitted, model, _ = build(case)
    this, X, theta = model.model, model.prepare(fitted.data.X_val), fitted.moved(1)
    before, outputs = this.params.copy(), this.outputs(X)
    other = this.at(theta)
    assert_array_equal(other.params, theta)
    assert_close(other.outputs(X), fitted.validation.outputs(theta), rtol=1e-9)
    theta[:] = 0.0
    assert np.any(other.params)
    _try_to_write(this.params)
    _try_to_write(other.params)
    assert_array_equal(this.params, before)
    assert_array_equal(this.outputs(X), outputs)
    assert_array_equal(this.at(before).outputs(X), outputs)
    assert_array_equal(ref.parameters(fitted.estimator), before)


def _try_to_write(params: np.ndarray) -> None:
    """Write into the parameters: refused, or done to a copy."""
    try:
        params += 1.0
    except ValueError:
        return


@over_cases(CASES)
def test_the_outputs_are_the_estimators_own(case):
    fitted, model, _ = build(case)
    estimator, X = fitted.estimator, fitted.data.X_val
    outputs = model.model.outputs(model.prepare(X))
    assert model.task == ("classification" if case.classifies else "regression")
    if case.classifies:
        assert_array_equal(model.classes, estimator.classes_)
        theirs = estimator.decision_function(X)
    else:
        outputs = outputs if case.link is None else case.link(outputs)
        theirs = estimator.predict(X)
    assert_allclose(outputs, theirs.reshape(len(X), -1), rtol=1e-9)


# --- the scores -----------------------------------------------------------------------------------


def scores(fitted: Fit, method, **options) -> np.ndarray:
    """Scores of the training rows against the validation rows."""
    data = fitted.data
    if fitted.sample_weight is not None:
        options["sample_weight"] = fitted.sample_weight
    return influence_scores(fitted.estimator, data.X, data.y, data.X_val, data.y_val, method=method, **options)


@over(SMOOTH_GRID)
def test_ip_is_the_inner_product_of_dense_gradients(case, weighting):
    fitted = fit(case, weighting)
    expected = fitted.row_gradients[:, fitted.free] @ fitted.validation.gradient(fitted.theta)[fitted.free]
    assert_close(scores(fitted, "ip"), unit_of(case, weighting) * expected, rtol=1e-5)


@over(SMOOTH_GRID)
def test_exact_is_the_dense_newton_step(case, weighting):
    fitted = fit(case, weighting)
    assert_close(scores(fitted, Exact(damping=0.0)), fitted.influence, rtol=1e-4)


@over_cases(case for case in CASES if case.smooth != "kinked" and case.minimum == "exact")
@pytest.mark.parametrize("method", ["exact", "cg"])
def test_the_defaults_agree_with_the_dense_newton_step(case, method):
    fitted = fit(case)
    assert_close(scores(fitted, method), fitted.influence, rtol=1e-3)


@over_cases(case for case in CASES if case.smooth == "kinked")
@pytest.mark.parametrize("method", ["exact", "cg"])
def test_hessian_methods_refuse_a_kinked_loss_and_name_those_that_work(case, method):
    with pytest.raises(TypeError) as caught:
        scores(fit(case), method)
    for name in METHODS_WITHOUT_HESSIAN:
        assert name in str(caught.value)


@over_cases(case for case in CASES if case.smooth == "kinked")
@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "self_tracin"])
def test_methods_without_a_hessian_take_a_kinked_loss(case, method):
    fitted = fit(case)
    found = scores(fitted, method, random_state=0)
    assert found.shape == fitted.data.y.shape
    assert np.all(np.isfinite(found))
    assert np.ptp(found) > 0


@over(GRID)
def test_self_tracin_is_the_negative_norm_of_each_row_gradient(case, weighting):
    """In the unit of the objective: −(w/Σw)·‖∇ℓ‖², from dense gradients of the weighted rows."""
    fitted = fit(case, weighting)
    if case.smooth == "kinked" or fitted.objective.weights.shape[1] > 1:
        pytest.skip("rows lie on a kink at the fit, or have one weight for each problem")
    gradients = fitted.row_gradients[:, fitted.free]
    share = fitted.objective.weights[:, 0] / fitted.objective.normaliser
    expected = -np.sum(gradients**2, axis=1) / share
    assert_close(scores(fitted, "self_tracin"), unit_of(case, weighting) * expected, rtol=1e-5)


def _is_refused(estimator) -> bool:
    try:
        as_model(estimator)
    except TypeError:
        return True
    return False


@pytest.mark.skipif(SKLEARN >= (1, 8), reason="multi_class is gone")
def test_a_softmax_of_two_classes_is_refused_or_right():
    """multi_class="multinomial" on two classes fits the softmax of (-f, f), which is no logistic loss of f."""
    data = make_data("two")
    estimator = LogisticRegression(multi_class="multinomial", solver="newton-cg", tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        estimator.fit(data.X, data.y)
    if not _is_refused(estimator):
        problem = TrainingProblem(as_model(estimator), data.X, data.y)
        assert_allclose(problem.gradient(problem.params), 0, atol=1e-6)


# --- the losses of the utility -------------------------------------------------------------------


def _probability(fitted: Fit, theta: np.ndarray) -> np.ndarray:
    """(n, K): of the label, by softmax, or by the sigmoid of each binary problem."""
    F, T = fitted.validation.outputs(theta), fitted.validation.targets
    return np.exp(-fitted.case.loss.rows(F, T)) if fitted.case.loss in (ref.LOG, ref.SOFTMAX) else expit(F * T)


CLASS_LOSSES = {
    "log_loss": lambda p: -np.log(p),
    "mae": lambda p: 1 - p,
    "gce": lambda p: (1 - p**0.7) / 0.7,
}


def assert_ip_of(fitted: Fit, utility: Utility, loss: Callable[[np.ndarray], float]) -> None:
    """IP scores under the utility are row gradients times the slope of `loss`."""
    slope = ref.jacobian(loss, fitted.theta, 1e-4)[fitted.free]
    assert_close(scores(fitted, "ip", objective=utility), fitted.row_gradients[:, fitted.free] @ slope)


@pytest.mark.parametrize("loss", CLASS_LOSSES)
@pytest.mark.parametrize(
    "name", ["logistic-newton", "logistic-three-newton", "linear-svc-two-squared-hinge", "ridge-classifier-three"]
)
def test_utilities_of_classifiers_are_of_the_probability_of_the_label(name, loss):
    fitted = fit(BY_ID[name])
    assert_ip_of(
        fitted, Utility(loss=loss), lambda theta: CLASS_LOSSES[loss](_probability(fitted, theta)).sum(axis=1).mean()
    )


@pytest.mark.parametrize("name", ["ridge", "ridge-targets", "poisson", "gamma", "tweedie-2-identity", "elastic-net"])
def test_the_squared_error_utility_is_of_the_predicted_mean(name):
    fitted = fit(BY_ID[name])
    link, validation = fitted.case.link or (lambda raw: raw), fitted.validation

    def half_squared(theta):
        return ((link(validation.outputs(theta)) - validation.targets) ** 2 / 2).sum(axis=1).mean()

    assert_ip_of(fitted, Utility(loss="squared_error"), half_squared)


@pytest.mark.parametrize("name", ["logistic-newton", "logistic-three-newton", "ridge-targets"])
def test_a_callable_utility_is_taken_at_its_word(name):
    fitted = fit(BY_ID[name])

    def fourth_powers(outputs, targets):
        return (outputs**4).sum(axis=1), 4 * outputs**3

    assert_ip_of(
        fitted, Utility(loss=fourth_powers), lambda theta: (fitted.validation.outputs(theta) ** 4).sum(axis=1).mean()
    )
