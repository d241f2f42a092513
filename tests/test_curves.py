"""Curves and losses at single points, worked out by hand: both sides of every kink, the kinks themselves, far out."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skinfluence import curves
from skinfluence.losses import DevianceLoss, MarginLoss, ResidualLoss, SoftmaxLoss

E = np.e
HALF = 0.5  # sigmoid(0)
POINTS = {
    # name: (curve, points, values, slopes, curvatures or None)
    "hinge": (curves.hinge_curve(), [-1, 0.5, 1, 2], [2, 0.5, 0, 0], [-1, -1, -1, 0], None),
    "perceptron": (curves.hinge_curve(0.0), [-2, 0, 1], [2, 0, 0], [-1, -1, 0], None),
    "squared hinge": (
        curves.squared_hinge_curve(), [-2, 0, 1, 3], [9, 1, 0, 0], [-6, -2, 0, 0], [2, 2, 0, 0],
    ),
    "modified huber": (
        curves.modified_huber_curve(), [-3, -1, 0, 1, 2], [12, 4, 1, 0, 0], [-4, -4, -2, 0, 0], [0, 2, 2, 0, 0],
    ),
    "squared": (curves.squared_curve(), [-3, 0, 2], [4.5, 0, 2], [-3, 0, 2], [1, 1, 1]),
    "squared of a margin": (curves.squared_curve().shifted(1.0), [-1, 1, 3], [2, 0, 2], [-2, 0, 2], [1, 1, 1]),
    "huber": (
        curves.huber_curve(2.0), [-3, -2, 0, 1, 2, 4], [4, 2, 0, 0.5, 2, 6], [-2, -2, 0, 1, 2, 2], [0, 1, 1, 1, 1, 0],
    ),
    "scaled huber": (
        curves.huber_curve(2.0, scale=3.0), [-3, 1, 4], [12, 1.5, 18], [-6, 3, 6], [0, 3, 0],
    ),
    "epsilon": (
        curves.epsilon_insensitive_curve(0.5), [-2, -0.5, 0, 0.5, 1], [1.5, 0, 0, 0, 0.5], [-1, 0, 0, 0, 1], None,
    ),
    "squared epsilon": (
        curves.squared_epsilon_insensitive_curve(0.5),
        [-2, -0.5, 0, 0.5, 1], [2.25, 0, 0, 0, 0.25], [-3, 0, 0, 0, 1], [2, 0, 0, 0, 2],
    ),
    "pinball": (curves.pinball_curve(0.25), [-2, 0, 4], [0.5, 0, 3], [-0.25, 0.75, 0.75], None),
    "log": (
        curves.cross_entropy_curve(),
        [0, 1], [np.log(2), np.log(1 + 1 / E)], [-0.5, -1 / (1 + E)], [0.25, E / (1 + E) ** 2],
    ),
    "mae": (
        curves.cross_entropy_curve(1.0),
        [0, 1], [0.5, 1 / (1 + E)], [-0.25, -E / (1 + E) ** 2], [0, E / (1 + E) ** 2 * (E - 1) / (E + 1)],
    ),
    # (1 - sqrt(p)) / 0.5; slope -sqrt(p) (1 - p); curvature sqrt(p) (1 - p) (p - (1 - p) / 2).
    "gce": (
        curves.cross_entropy_curve(0.5), [0], [2 - 2 * HALF**0.5], [-(HALF**0.5) / 2], [HALF**0.5 / 2 * 0.25],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_curves_at_points(name, dtype):
    curve, at, values, slopes, curvatures = POINTS[name]
    at = np.array(at, dtype=dtype)
    tight = {"rtol": 1e-12 if dtype == np.float64 else 1e-6, "atol": 1e-7 if dtype == np.float32 else 1e-15}
    before = at.copy()
    assert_allclose(curve.value(at), values, **tight)
    assert_allclose(curve.slope(at), slopes, **tight)
    assert curve.value(at).dtype == curve.slope(at).dtype == dtype
    if curvatures is None:
        assert curve.curvature is None
    else:
        assert_allclose(curve.curvature(at), curvatures, **tight)
        assert curve.curvature(at).dtype == dtype
    assert_array_equal(at, before)


def test_curves_know_their_names():
    named = [curve.name for curve, *_ in POINTS.values()]
    assert named == [
        "hinge", "hinge", "squared_hinge", "modified_huber", "squared_error", "squared_error", "huber", "huber",
        "epsilon_insensitive", "squared_epsilon_insensitive", "pinball", "log_loss", "gce(1)", "gce(0.5)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kept",
    [curves.hinge_curve(), MarginLoss(curves.hinge_curve()), SoftmaxLoss(), ResidualLoss(curves.squared_curve()),
     DevianceLoss(1.0)],
    ids=lambda kept: type(kept).__name__,
)  # fmt: skip
def test_curves_and_losses_do_not_change(kept):
    name = next(iter(vars(kept)))
    with pytest.raises(FrozenInstanceError):
        setattr(kept, name, None)


def test_a_curve_shows_its_name():
    assert repr(curves.hinge_curve()) == "Curve(name='hinge')"


def test_a_shifted_curve_without_curvature_has_none():
    shifted = pickle.loads(pickle.dumps(curves.hinge_curve().shifted(2.0)))
    assert shifted.curvature is None
    assert_allclose(shifted.value(np.array([1.0, 4.0])), [2.0, 0.0])


def test_the_log_loss_is_exact_far_out():
    curve = curves.cross_entropy_curve()
    far = np.array([-1000.0, -40.0, 40.0, 1000.0])
    assert_allclose(curve.value(far), [1000, 40, np.exp(-40), 0], rtol=1e-12)
    assert_allclose(curve.slope(far), [-1, -1, -np.exp(-40), 0], rtol=1e-12)
    assert_allclose(curve.curvature(far), [0, np.exp(-40), np.exp(-40), 0], rtol=1e-10, atol=1e-16)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_margins_of_two_classes():
    loss = MarginLoss(curves.squared_hinge_curve())
    F, y = np.array([[0.5], [0.5], [-3.0]]), np.array([1, 0, 0], dtype=np.int8)
    assert_allclose(loss.value(F, y), [0.25, 2.25, 0])
    assert_allclose(loss.gradient(F, y)[:, 0], [-1, 3, 0])
    assert_allclose(loss.hessian_product(F, y, np.full((3, 1), 2.0))[:, 0], [4, 4, 0])
    assert loss.link == "sigmoid"
    assert loss.twice_differentiable
    assert not MarginLoss(curves.hinge_curve()).twice_differentiable


def test_margins_of_one_vs_rest():
    weights = ((2.0, 0.5), (1.0, 3.0), (5.0, 1.0))
    plain, weighted = MarginLoss(curves.squared_hinge_curve()), MarginLoss(curves.squared_hinge_curve(), weights)
    F, y = np.array([[0.5, -2.0, 0.0], [0.5, 0.0, 2.0]]), np.array([0, 2])
    assert_allclose(plain.value(F, y), [0.25 + 0 + 1, 2.25 + 1 + 0])
    assert_allclose(plain.gradient(F, y), [[-1, 0, 2], [3, 2, 0]])
    assert_allclose(weighted.value(F, y), [2 * 0.25 + 0 + 1, 0.5 * 2.25 + 3 + 0])
    assert_allclose(weighted.gradient(F, y), [[-2, 0, 2], [1.5, 6, 0]])
    V = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]])
    assert_allclose(weighted.hessian_product(F, y, V), [[4, 0, 2], [2, 6, 0]])


def test_a_softmax_of_three():
    F, y = np.log(np.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])), np.array([2, 0])  # 1/8, 2/8, 5/8
    P = np.array([[0.125, 0.25, 0.625]] * 2)
    loss = SoftmaxLoss()
    assert_allclose(loss.value(F, y), -np.log([0.625, 0.125]))
    assert_allclose(loss.gradient(F, y), P - [[0, 0, 1], [1, 0, 0]])
    V = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert_allclose(
        loss.hessian_product(F, y, V), [(np.diag(p) - np.outer(p, p)) @ v for p, v in zip(P, V, strict=True)]
    )
    assert loss.link == "softmax"
    assert loss.twice_differentiable
    mae, gce = SoftmaxLoss(1.0), SoftmaxLoss(0.5)
    assert_allclose(mae.value(F, y), [0.375, 0.875])
    assert_allclose(mae.gradient(F, y), np.array([[0.625], [0.125]]) * loss.gradient(F, y))
    assert_allclose(gce.value(F, y), 2 * (1 - np.sqrt([0.625, 0.125])))
    assert_allclose(gce.gradient(F, y), np.sqrt([[0.625], [0.125]]) * loss.gradient(F, y))
    assert not gce.twice_differentiable


def test_a_softmax_far_out():
    F, y = np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0])
    assert_allclose(SoftmaxLoss().value(F, y), [0, 1000])
    assert_allclose(SoftmaxLoss().gradient(F, y), [[0, 0], [-1, 1]])
    assert_allclose(SoftmaxLoss().hessian_product(F, y, np.ones_like(F)), 0)


def test_residuals_with_and_without_a_log_link():
    F, y = np.array([[0.0, np.log(3.0)]]), np.array([[3.0, 1.0]])
    plain, log = ResidualLoss(curves.squared_curve()), ResidualLoss(curves.squared_curve(), log_link=True)
    assert (plain.link, log.link) == ("identity", "exp")
    assert_allclose(plain.value(F, y), [4.5 + (np.log(3) - 1) ** 2 / 2])
    assert_allclose(plain.gradient(F, y), [[-3, np.log(3) - 1]])
    assert_allclose(plain.hessian_product(F, y, np.array([[2.0, 5.0]])), [[2, 5]])
    assert_allclose(log.value(F, y), [2 + 2])  # (1 - 3)^2 / 2 + (3 - 1)^2 / 2
    assert_allclose(log.gradient(F, y), [[-2, 6]])
    # (curvature mean + slope) mean: (1 - 2) and (3 + 2) 3
    assert_allclose(log.hessian_product(F, y, np.array([[2.0, 1.0]])), [[-2, 15]])
    assert plain.twice_differentiable
    assert not ResidualLoss(curves.pinball_curve(0.5)).twice_differentiable


# d = derivative in the mean m: (m - y) / m^p; second: m^-p - p (m - y) m^-(p + 1)
@pytest.mark.parametrize("power", [0, 1, 1.5, 2, 3])
@pytest.mark.parametrize("log_link", [True, False])
def test_deviances(power, log_link):
    loss = DevianceLoss(power, log_link)
    m, y = 2.0, 3.0
    F, target = np.array([[np.log(m) if log_link else m, np.log(m) if log_link else m]]), np.array([[y, m]])
    one, two = (m - y) / m**power, m**-power - power * (m - y) * m ** -(power + 1)
    link = m if log_link else 1.0
    assert_allclose(loss.gradient(F, target), [[one * link, 0]], atol=1e-15)
    # By F: the second derivative times the square of the link's, and where the link is exp the first times m besides.
    second = two * link**2 + (one * m if log_link else 0.0)
    at_mean = m**-power * link**2
    assert_allclose(loss.hessian_product(F, target, np.array([[2.0, 1.0]])), [[2 * second, at_mean]])
    assert loss.link == ("exp" if log_link else "identity")
    assert loss.twice_differentiable
    terms = {
        0: 0.5,
        1: m - y * np.log(m),
        1.5: m**0.5 / 0.5 + y * m**-0.5 / 0.5,
        2: np.log(m) + y / m,
        3: -1 / m + y * m**-2 / 2,
    }
    assert_allclose(loss.value(F[:, :1], target[:, :1]), [terms[power]])
    assert_allclose(loss.value(F, target), [terms[power] + float(loss.value(F[:, 1:], target[:, 1:])[0])])


def test_targets_that_a_deviance_is_not_defined_for():
    zero, minus, plus = np.array([[0.0]]), np.array([[-1.0]]), np.array([[1.0]])
    DevianceLoss(0.0).check_targets(minus)
    DevianceLoss(1.0).check_targets(zero)
    DevianceLoss(1.5).check_targets(zero)
    DevianceLoss(2.0).check_targets(plus)
    with pytest.raises(ValueError, match=r"y must be >= 0 for a deviance of power 1, got a value of -1"):
        DevianceLoss(1.0).check_targets(minus)
    for power in (2.0, 3.0):
        for y in (zero, minus):
            with pytest.raises(ValueError, match=rf"y must be > 0 for a deviance of power {power:g}"):
                DevianceLoss(power).check_targets(y)
