"""Classes counted and weighted block by block: what scikit-learn makes of all rows at once."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils.class_weight import compute_class_weight

from skinfluence.models import _balance
from skinfluence.models._balance import class_weights, count_codes
from skinfluence.models._fitted import encode_labels

from .cases import WEIGHTED_BALANCE

CODES = np.random.RandomState(0).choice(3, p=[0.2, 0.5, 0.3], size=500).astype(np.int8)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_counts_are_those_of_all_rows(monkeypatch, at_once, weighted):
    monkeypatch.setattr(_balance, "_ROWS_AT_ONCE", at_once)
    weight = np.random.RandomState(1).uniform(size=500) if weighted else None
    assert_allclose(count_codes(CODES, weight, 4), np.bincount(CODES, weight, minlength=4))


@pytest.mark.parametrize("value", ["balanced", {0: 2.0, 1: 0.5, 2: 1.0}, {1: 3.0}])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_are_scikit_learns(value, weighted):
    if weighted and not WEIGHTED_BALANCE:
        pytest.skip("this scikit-learn counts classes by number alone")
    weight = np.random.RandomState(1).uniform(size=500) if weighted else None
    extra = {"sample_weight": weight} if weighted else {}
    expected = compute_class_weight(value, classes=np.arange(3), y=CODES, **extra)
    assert_allclose(class_weights(value, CODES, weight, 3), expected)


def test_a_class_without_rows_cannot_be_balanced():
    with pytest.raises(ValueError, match="classes should have valid labels that are in y"):
        class_weights("balanced", CODES, None, 4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_labels_that_are_codes_are_their_own_codes(dtype, n_classes):
    y = np.random.RandomState(0).randint(n_classes, size=300).astype(dtype)
    codes = encode_labels(y, np.arange(n_classes))
    assert codes.dtype == np.int8
    assert_array_equal(codes, y)


@pytest.mark.parametrize("strange", [-1, 3, 256, 259])
def test_labels_beyond_the_codes_are_named(strange):
    with pytest.raises(ValueError, match=rf"was not fitted with: \[{strange}\]"):
        encode_labels(np.array([0, 1, 2, strange, strange]), np.arange(3))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i8", ">i8", ">u4", "<i4"])
def test_integer_labels_that_are_codes_stay_and_others_are_named(dtype):
    y = np.array([0, 2, 1, 1, 0], dtype=dtype)
    classes = np.arange(3)
    assert_array_equal(encode_labels(y, classes), y)
    assert_array_equal(encode_labels(np.repeat(y, 2)[::2], classes), y)  # not contiguous
    strange = [3, 127] if y.dtype.kind == "u" else [3, -1, -128]
    for label in strange:
        with pytest.raises(ValueError, match=rf"not fitted with: \[{label}\]"):
            encode_labels(np.append(y, np.array([label], dtype=dtype)), classes)
