"""Losses and curves against finite differences, and against each other."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import log_loss, mean_gamma_deviance, mean_poisson_deviance, mean_tweedie_deviance

from skinfluence import curves
from skinfluence.losses import CappedLoss, DevianceLoss, MarginLoss, ResidualLoss, SoftmaxLoss

MARGIN_CURVES = [
    curves.cross_entropy_curve(),
    curves.cross_entropy_curve(0.7),
    curves.cross_entropy_curve(1.0),
    curves.hinge_curve(),
    curves.hinge_curve(0.0),
    curves.squared_hinge_curve(),
    curves.modified_huber_curve(),
    curves.squared_curve().shifted(1.0),
    curves.huber_curve(0.3).shifted(1.0),
]
RESIDUAL_CURVES = [
    curves.squared_curve(),
    curves.huber_curve(0.8),
    curves.huber_curve(0.8, scale=3.0),
    curves.epsilon_insensitive_curve(0.2),
    curves.squared_epsilon_insensitive_curve(0.2),
    curves.pinball_curve(0.3),
]
CLASS_LOSSES = [(MarginLoss(c), K) for c in MARGIN_CURVES for K in (1, 3)]
CLASS_LOSSES += [(MarginLoss(MARGIN_CURVES[0], ((2.0, 0.5), (1.0, 3.0), (0.7, 1.0))), 3)]
CLASS_LOSSES += [(SoftmaxLoss(q), 3) for q in (0.0, 0.7, 1.0)]
VALUE_LOSSES = [ResidualLoss(c) for c in RESIDUAL_CURVES]
VALUE_LOSSES += [
    ResidualLoss(curves.squared_curve(), log_link=True),
    ResidualLoss(curves.huber_curve(0.8), log_link=True),
]
VALUE_LOSSES += [DevianceLoss(p, log_link=True) for p in (0.0, 1.0, 1.5, 2.0, 3.0)]
VALUE_LOSSES += [DevianceLoss(p, log_link=False) for p in (-1.0, 0.0)]
VALUE_LOSSES += [CappedLoss(ResidualLoss(c), -0.9, 0.5) for c in RESIDUAL_CURVES]


def cases():
    rng = np.random.RandomState(0)
    for loss, K in CLASS_LOSSES:
        # Away from kinks: a finite difference across one is no derivative.
        F = rng.uniform(-2.5, 2.5, size=(60, K))
        yield pytest.param(loss, F, rng.randint(max(K, 2), size=60), id=f"{loss}-{K}"[:80])
    for loss in VALUE_LOSSES:
        for K in (1, 2):
            F = rng.uniform(0.3, 1.2, size=(60, K))
            yield pytest.param(loss, F, rng.uniform(0.2, 3.0, size=(60, K)), id=f"{loss}-{K}"[:80])


CASES = list(cases())


def far_from_kinks(loss, F, y, step=1e-4):
    """Rows where the gradient does not jump within the step of a finite difference."""
    jump = loss.gradient(F + step, y) - loss.gradient(F - step, y)
    return (np.abs(jump) < 0.01).all(axis=1)


@pytest.mark.parametrize(("loss", "F", "y"), CASES)
def test_gradient_is_the_derivative_of_the_value(loss, F, y):
    rows = far_from_kinks(loss, F, y)
    assert rows.mean() > 0.9
    F, y = F[rows], y[rows]
    for k in range(F.shape[1]):
        step = np.zeros_like(F)
        step[:, k] = 1e-5
        numeric = (loss.value(F + step, y) - loss.value(F - step, y)) / 2e-5
        assert_allclose(loss.gradient(F, y)[:, k], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("loss", "F", "y"), CASES)
def test_hessian_product_is_the_derivative_of_the_gradient(loss, F, y, rng):
    if not loss.twice_differentiable:
        return
    V = rng.standard_normal(F.shape)
    numeric = (loss.gradient(F + 1e-5 * V, y) - loss.gradient(F - 1e-5 * V, y)) / 2e-5
    product = loss.hessian_product(F, y, V)
    # The second derivative of a piecewise quadratic jumps at its joints, where a difference straddles both sides.
    agree = np.isclose(product, numeric, rtol=1e-5, atol=1e-6).all(axis=1)
    assert agree.mean() > 0.95


@pytest.mark.parametrize(("loss", "F", "y"), CASES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_and_float32_change_nothing_else(loss, F, y, order):
    single = np.asarray(F, dtype=np.float32, order=order)
    target = y if y.ndim == 1 else y.astype(np.float32)
    rows = far_from_kinks(loss, F, y)
    assert loss.gradient(single, target).dtype == np.float32
    assert_allclose(loss.gradient(single, target)[rows], loss.gradient(F, y)[rows], rtol=2e-4, atol=2e-5)
    assert_allclose(loss.value(single, target), loss.value(F, y), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("loss", "F", "y"), CASES)
def test_losses_can_be_pickled(loss, F, y):
    again = pickle.loads(pickle.dumps(loss))
    assert_allclose(again.value(F, y), loss.value(F, y))


@given(z=st.floats(-800, 800), q=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=200, deadline=None)
def test_cross_entropy_is_finite_and_decreasing_however_far_out(z, q):
    curve = curves.cross_entropy_curve(q)
    at = np.array([z])
    assert np.isfinite(curve.value(at)).all()
    assert -1 <= curve.slope(at)[0] <= 0
    assert curve.value(at)[0] >= 0


@given(f=st.floats(-30, 30), y=st.integers(0, 1))
@settings(max_examples=100, deadline=None)
def test_two_class_softmax_is_the_sigmoid(f, y):
    """SoftmaxLoss on outputs (0, f) is MarginLoss on f: one formula twice."""
    target = np.array([y])
    for q in (0.0, 0.7, 1.0):
        two, one = SoftmaxLoss(q), MarginLoss(curves.cross_entropy_curve(q))
        pair, single = np.array([[0.0, f]]), np.array([[f]])
        assert_allclose(two.value(pair, target), one.value(single, target), rtol=1e-9, atol=1e-12)
        assert_allclose(two.gradient(pair, target)[:, 1], one.gradient(single, target)[:, 0], rtol=1e-9, atol=1e-12)


def test_log_losses_are_scikit_learns(rng):
    F, y = rng.standard_normal((50, 3)), rng.randint(3, size=50)
    P = np.exp(F) / np.exp(F).sum(axis=1, keepdims=True)
    assert_allclose(SoftmaxLoss().value(F, y).mean(), log_loss(y, P))
    assert_allclose(SoftmaxLoss(1.0).value(F, y), 1 - P[np.arange(50), y])


@pytest.mark.parametrize(
    ("power", "deviance"), [(1, mean_poisson_deviance), (2, mean_gamma_deviance), (1.5, None), (3, None)]
)
def test_deviances_are_scikit_learns_up_to_a_constant(power, deviance, rng):
    deviance = deviance or (lambda y, m: mean_tweedie_deviance(y, m, power=power))
    y, F = rng.uniform(0.5, 3, size=(40, 1)), rng.standard_normal((40, 1)) / 3
    loss = DevianceLoss(power)
    ours = loss.value(F, y).mean() - loss.value(np.log(y), y).mean()
    assert_allclose(2 * ours, deviance(y.ravel(), np.exp(F).ravel()))


@pytest.mark.parametrize("curve", RESIDUAL_CURVES, ids=lambda curve: curve.name)
def test_a_cap_takes_rows_far_away_off_a_loss_and_leaves_the_others(curve, rng):
    loss, y = ResidualLoss(curve), 3 * rng.standard_normal((200, 2))
    low, high = np.array([-2.0, -0.5]), np.array([0.5, 4.0])  # a range for each output
    capped, F = CappedLoss(loss, low, high), np.zeros_like(y)
    outside = (F - y < low) | (F - y > high)
    assert 0.2 < outside.mean() < 0.8
    assert_allclose(capped.gradient(F, y), np.where(outside, 0.0, loss.gradient(F, y)))
    assert_allclose(capped.value(F, y), loss.value(y + np.clip(F - y, low, high), y))
    inside = ~outside.any(axis=1)
    assert_allclose(capped.value(F, y)[inside], loss.value(F, y)[inside])


def test_a_robust_loss_has_no_hessian_to_offer():
    assert not SoftmaxLoss(1.0).twice_differentiable
    with pytest.raises(ValueError, match="log-loss"):
        SoftmaxLoss(1.0).hessian_product(np.zeros((1, 2)), np.zeros(1, dtype=int), np.zeros((1, 2)))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64])
def test_binary_codes_of_any_dtype_have_one_gradient(dtype):
    F, codes = np.linspace(-2, 2, 6, dtype=np.float32)[:, None], np.array([0, 1, 1, 0, 1, 0])
    found = MarginLoss(curves.cross_entropy_curve()).gradient(F, codes.astype(dtype))
    assert found.dtype == np.float32
    assert_allclose(found[:, 0], 1 / (1 + np.exp(-F[:, 0])) - codes, rtol=1e-5)
