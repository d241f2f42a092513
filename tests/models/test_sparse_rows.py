"""Rows of CSC matrices block by block, and squares of sparse matrices: against SciPy's own slices and dense arrays."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from skinfluence import influence_scores
from skinfluence.models import _blocks, _sparse
from skinfluence.models._blocks import blocks_of, row_slices, take
from skinfluence.models._sparse import squares_times

from .cases import logistic


@st.composite
def matrices(draw):
    """Small CSC matrices with empty rows and columns, of either index width, some with entries given twice."""
    n, d = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    entries = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, d - 1)), max_size=40))
    rows, columns = np.array(entries, dtype=np.int64).reshape(-1, 2).T
    order = np.lexsort((rows, columns))  # by column, then row: sorted, twins side by side
    indptr = np.searchsorted(columns[order], np.arange(d + 1))
    index = draw(st.sampled_from([np.int32, np.int64]))
    values = np.arange(1.0, len(entries) + 1)
    return sp.csc_array((values, rows[order].astype(index), indptr.astype(index)), shape=(n, d))


@given(X=matrices(), data=st.data())
def test_slices_of_a_csc_matrix_are_those_of_scipy(X, data):
    cuts = data.draw(st.lists(st.integers(0, X.shape[0]), max_size=5).map(sorted))
    edges = [0, *cuts, X.shape[0]]
    slices = [slice(a, b) for a, b in pairwise(edges) if a < b]
    found = list(blocks_of(X, slices))
    assert [at for at, _ in found] == slices
    for at, block in found:
        assert block.has_sorted_indices
        assert_array_equal(block.toarray(), X[at].toarray())
        assert_array_equal(take(X, at).toarray(), X[at].toarray())
    # Slices that do not follow each other are looked up by themselves.
    for at, block in blocks_of(X, slices[::-1]):
        assert_array_equal(block.toarray(), X[at].toarray())


@given(X=matrices())
def test_squares_are_summed_whatever_the_pieces(X):
    table = np.arange(1.0, 2 * X.shape[1] + 1).reshape(2, -1)
    X.sum_duplicates()
    dense = (X.toarray() ** 2) @ table.T
    for entries in (1, 7, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_sparse, "_ENTRIES", entries)
            patch.setattr(_sparse, "_ENTRIES_PER_ROW", 0)
            for container in (X, X.tocsr(), sp.csc_matrix(X), sp.csr_matrix(X)):
                assert_allclose(squares_times(container, table), dense, rtol=1e-13)


def test_a_csc_matrix_is_cut_only_where_much_is_computed_of_its_rows(monkeypatch):
    X = sp.csc_array(sp.random(2000, 3, density=0.5, random_state=0))
    assert list(row_slices(X, 4)) == [slice(0, 2000)]
    monkeypatch.setattr(_blocks, "_CSC_WORK_BYTES", 1 << 10)
    monkeypatch.setattr(_blocks, "_CSC_X_BYTES", 1 << 10)
    slices = list(row_slices(X, 4))
    assert len(slices) > 10
    assert [at.start for at in slices[1:]] == [at.stop for at in slices[:-1]]
    assert (slices[0].start, slices[-1].stop) == (0, 2000)
    # Many columns with few entries each: finding the rows would take longer than all the rest.
    wide = sp.csc_array(sp.random(2000, 5000, density=1e-4, random_state=0))
    assert list(row_slices(wide, 4)) == [slice(0, 2000)]


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "exact", "cg", "self_tracin", "ekfac", "datainf"])
@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_scores_of_a_csc_matrix_do_not_depend_on_its_blocks(method, l1_ratio, monkeypatch):
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((300, 8)) * (rng.random((300, 8)) < 0.3)
    y = (dense @ rng.standard_normal(8) + rng.standard_normal(300) > 0).astype(int)
    weight = rng.random(300)
    fitted = logistic(l1_ratio, C=0.05, solver="saga", max_iter=5000, tol=1e-8).fit(dense, y, sample_weight=weight)
    assert (fitted.coef_ == 0).any() == (l1_ratio == 1.0)
    X = sp.csc_array(dense)
    given = {"sample_weight": weight, "method": method, "random_state": 0}
    want = influence_scores(fitted, dense, y, dense[:40], y[:40], **given)
    monkeypatch.setattr(_blocks, "_CSC_WORK_BYTES", 1 << 8)
    monkeypatch.setattr(_blocks, "_CSC_X_BYTES", 1 << 8)
    assert len(list(row_slices(X, 4))) > 3
    assert_allclose(influence_scores(fitted, X, y, X[:40], y[:40], **given), want, rtol=1e-7, atol=1e-12)
    backwards = sp.csc_array((X.data.copy(), X.indices.copy(), X.indptr), shape=X.shape)
    for a, b in pairwise(X.indptr):  # each column from its last row to its first
        backwards.data[a:b], backwards.indices[a:b] = X.data[a:b][::-1].copy(), X.indices[a:b][::-1]
    assert not backwards.has_sorted_indices
    before = backwards.indices.copy()
    assert_allclose(influence_scores(fitted, backwards, y, X[:40], y[:40], **given), want, rtol=1e-7, atol=1e-12)
    assert_array_equal(backwards.indices, before)  # sorted is a copy


@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("method", ["ip", "self_tracin"])
def test_what_is_kept_beside_a_sparse_table_is_small_whatever_its_rows(container, method):
    rng = np.random.default_rng(0)
    X = container(sp.random(600_000, 40, density=0.1, random_state=rng, format="csr"))
    y = rng.integers(0, 2, size=X.shape[0])
    fitted = LogisticRegression().fit(X[:2000], y[:2000])
    judges = () if method == "self_tracin" else (X[:500], y[:500])
    tracemalloc.start()
    try:
        influence_scores(fitted, X, y, *judges, method=method)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < 16, f"{peak:.1f} MiB above X, of which {8 * X.shape[0] / 2**20:.1f} are the scores"


def test_working_memory_is_kept_by_csc_matrices_too():
    X = sp.csc_array(sp.random(100_000, 3, density=0.5, random_state=0))
    with config_context(working_memory=1):
        assert len(list(row_slices(X, 4))) > 1
    wide = sp.csc_array(sp.random(50_000, 20_000, density=1e-4, random_state=0))  # whose rows are dear to find
    a_row = (wide.data.nbytes + wide.indices.nbytes) / wide.shape[0] + 8 * 8
    with config_context(working_memory=0.25):
        assert max((at.stop - at.start) * a_row for at in row_slices(wide, 8)) <= 2**18
