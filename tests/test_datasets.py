"""Drawn tables: the draws of the stored results, shares, seeds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs, make_moons

from skinfluence.datasets import make_noisy_blobs, make_noisy_moons

MAKERS = [make_noisy_blobs, make_noisy_moons]


@pytest.mark.parametrize("seed", [0, 7])
def test_blobs_are_those_of_the_stored_results(seed):
    # Written out: a change of the order of draws would change what was published with them.
    rng = np.random.default_rng(seed)
    X, truth = make_blobs(250, centers=[[-2, -2], [2, 2]], cluster_std=2.5, random_state=seed)
    groups = rng.random(250) < np.where(truth == 1, 0.8, 0.2)
    rows = rng.permutation(150)[:10]

    found_X, y, flipped, found_groups = make_noisy_blobs(
        150, n_clean=100, flip_share=10 / 150, noise=2.5, return_groups=True, random_state=seed
    )
    assert_array_equal(found_X, X)
    assert_array_equal(np.flatnonzero(flipped), np.sort(rows))
    assert_array_equal(y != truth, flipped)
    assert_array_equal(found_groups, groups)
    without = make_noisy_blobs(150, n_clean=100, flip_share=10 / 150, noise=2.5, random_state=seed)
    assert len(without) == 3
    assert_array_equal(without[2], flipped)


@pytest.mark.parametrize("seed", [0, 7])
def test_moons_are_those_of_the_stored_results(seed):
    rng = np.random.default_rng(seed)
    X, truth = make_moons(300, noise=0.2, random_state=seed)
    rows = [rng.choice(np.flatnonzero(truth[:200] == label), 10, replace=False) for label in (0, 1)]

    found_X, y, flipped = make_noisy_moons(200, n_clean=100, flip_share=0.1, noise=0.2, random_state=seed)
    assert_array_equal(found_X, X)
    assert_array_equal(np.flatnonzero(flipped), np.sort(np.concatenate(rows)))
    assert_array_equal(y != truth, flipped)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.25])
def test_the_share_asked_is_flipped_among_the_rows_that_are_not_clean(make, share):
    X, y, flipped = make(60, n_clean=30, flip_share=share, random_state=1)
    assert X.shape == (90, 2)
    assert flipped.sum() == round(share * 60)
    assert not flipped[60:].any()
    assert set(np.unique(y)) == {0, 1}
    assert y.dtype.kind == "i"
    truth = make(60, n_clean=30, flip_share=0.0, random_state=1)[1]
    assert_array_equal(truth != y, flipped)


def test_an_odd_number_of_flips_is_kept():
    assert make_noisy_moons(50, flip_share=0.1, random_state=0)[2].sum() == 5


@pytest.mark.parametrize("make", MAKERS)
def test_a_seed_may_be_a_number_a_state_or_none(make):
    state = np.random.RandomState(3)
    first, second = make(random_state=state), make(random_state=state)
    again = make(random_state=np.random.RandomState(3))
    assert_array_equal(first[0], again[0])
    assert_array_equal(first[2], again[2])
    assert (first[0] != second[0]).any()
    assert (make()[0] != make()[0]).any()
    assert_array_equal(make(random_state=np.int64(4))[0], make(random_state=4)[0])


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_samples": 1}, "n_samples == 1, must be >= 2"),
        ({"n_samples": 10.0}, "n_samples must be an instance of int"),
        ({"n_clean": -1}, "n_clean == -1, must be >= 0"),
        ({"flip_share": 1.5}, r"flip_share == 1.5, must be <= 1"),
        ({"noise": -1.0}, "noise == -1.0, must be >= 0"),
        ({"random_state": -1}, "Seed must be between"),
        ({"random_state": "a"}, "cannot be used to seed"),
    ],
)
def test_what_is_out_of_range_is_refused(make, wrong, says):
    kind = TypeError if "instance" in says else ValueError
    with pytest.raises(kind, match=says):
        make(**wrong)


def test_more_flips_of_a_class_than_it_has_rows_are_refused():
    # With this seed the first two rows are of one class: half of two flips cannot be of the other.
    with pytest.raises(ValueError, match="asks for 1 flipped rows of a class, of which 0 were drawn: lower it"):
        make_noisy_moons(2, n_clean=99, flip_share=1.0, random_state=1)
