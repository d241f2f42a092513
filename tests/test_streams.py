"""Rows that are streamed: the scores of the same rows in memory, whatever they are read from; and what is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from benchmarks import large
from skinfluence import CuratedClassifier, InfluenceRelabeler, InfluenceReweighter, InfluenceSelector, influence_scores
from skinfluence.methods import CG, IPEnsemble
from skinfluence.models import as_model
from skinfluence.models._blocks import row_slices, take
from skinfluence.models._sources import SlicedRows, is_unloaded, source_of
from skinfluence.models._streams import RowStream
from skinfluence.streams import ParquetRows, parquet_rows

N, D = 230, 5
NAMES = [f"x{j}" for j in range(D)]
METHODS = ("ip", "ip_ensemble", "exact", "cg", "self_tracin")
SOURCES = ("zarr", "h5py", "dask array", "dask frame", "pyarrow", "parquet", "parquet files")
OF_FRAMES = ("dask frame", "pyarrow", "parquet", "parquet files")


def table(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    X = rng.normal(size=(N, D))
    y = (X[:, 0] - X[:, 1] + rng.normal(size=N) > 0).astype(int) + (X[:, 2] > 1)
    return X.astype(dtype), y


@pytest.fixture
def X_y():
    return table()


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of a kibibyte, so that a small table has many."""
    monkeypatch.setattr("skinfluence.models._sources._PIECE_BYTES", 1 << 10)


def at_home(kind: str, X: np.ndarray, folder):
    """``X`` as a source of a kind keeps it."""
    frame = pd.DataFrame(X, columns=NAMES[: X.shape[1]])
    if kind == "zarr":
        zarr = pytest.importorskip("zarr", reason="needs zarr")
        stored = zarr.create_array(str(folder / "X.zarr"), shape=X.shape, dtype=X.dtype, chunks=(37, 3))
        stored[:] = X
        return stored
    if kind == "h5py":
        h5py = pytest.importorskip("h5py", reason="needs h5py")
        return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X, chunks=(37, 2))
    if kind == "dask array":
        array = pytest.importorskip("dask.array", reason="needs dask")
        return array.from_array(X, chunks=((100, 1, 29, 100) if len(X) == N else 29, 3))
    if kind == "dask frame":
        frames = pytest.importorskip("dask.dataframe", reason="needs dask")
        return frames.from_pandas(frame, npartitions=4)
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    if kind == "pyarrow":
        return arrow.Table.from_pandas(frame)
    if kind == "parquet":
        frame.assign(other="text").to_parquet(folder / "X.parquet", row_group_size=37)
        return parquet_rows(folder / "X.parquet", columns=list(frame.columns))
    paths = [folder / f"part-{k}.parquet" for k in range(3)]
    cuts = [0, 90, 91, len(X)]
    for path, (first, last) in zip(paths, pairwise(cuts), strict=True):
        frame[first:last].to_parquet(path, row_group_size=50)
    return parquet_rows(paths)


def fitted_on(kind: str, X: np.ndarray, y: np.ndarray, estimator=None):
    """An estimator that knows the columns' names where the source does, and the rows in memory."""
    rows = pd.DataFrame(X, columns=NAMES) if kind in OF_FRAMES else X
    return (estimator or LogisticRegression()).fit(rows, y), rows


# --- the same scores --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SOURCES)
def test_streamed_rows_have_the_scores_of_rows_in_memory(X_y, tmp_path, kind, method):
    X, y = X_y
    clf, rows = fitted_on(kind, X, y)
    judges = () if method == "self_tracin" else (rows[:40], y[:40])
    expected = influence_scores(clf, rows, y, *judges, method=method, random_state=0)
    home = at_home(kind, X, tmp_path)
    assert len(source_of(home).edges) > 3
    found = influence_scores(clf, home, y, *judges, method=method, random_state=0)
    # Sums over rows (the Hessian) are added up in other blocks; CG stops at a residual of 1e-6.
    assert found == pytest.approx(expected, rel=1e-5 if method == "cg" else 1e-9, abs=1e-12)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", SOURCES)
def test_validation_rows_are_streamed_too(X_y, tmp_path, kind):
    X, y = X_y
    clf, rows = fitted_on(kind, X, y)
    expected = influence_scores(clf, rows, y, rows, y, method="exact")
    home = at_home(kind, X, tmp_path)
    for given in (rows, home):
        assert influence_scores(clf, given, y, home, y, method="exact") == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", SOURCES)
def test_pipelines_transform_streamed_rows_block_by_block(X_y, tmp_path, kind):
    X, y = X_y
    largest = []

    def noted(block):
        largest.append(block.shape[0])
        return block

    steps = (FunctionTransformer(noted), StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=500))
    pipe, rows = fitted_on(kind, X, y, make_pipeline(*steps))
    expected = influence_scores(pipe, rows, y, rows[:40], y[:40], method="exact")
    home = at_home(kind, X, tmp_path)
    largest.clear()
    found = influence_scores(pipe, home, y, rows[:40], y[:40], method="exact")
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-13)
    assert max(largest) <= (140 if kind == "parquet files" else 100)  # never the 230 at once
    assert sum(largest) >= 3 * N  # and anew on every pass


@pytest.mark.parametrize("method", METHODS)
def test_memory_maps_of_floats_are_arrays_like_any_other(X_y, tmp_path, method):
    X, y = X_y
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert source_of(mapped) is None
    clf = LogisticRegression().fit(X, y)
    found, expected = (influence_scores(clf, rows, y, method=method, random_state=0) for rows in (mapped, X))
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16, bool])
@pytest.mark.parametrize("method", METHODS)
def test_memory_maps_of_other_numbers_are_converted_piece_by_piece(tmp_path, method, dtype):
    X = np.random.RandomState(0).randint(-4 if np.dtype(dtype).kind == "i" else 0, 5, size=(N, D)).astype(dtype)
    y = (X.sum(axis=1) > np.median(X.sum(axis=1))).astype(int)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert isinstance(source_of(mapped), SlicedRows)
    assert not is_unloaded(mapped)
    clf = LogisticRegression().fit(X, y)
    found, expected = (influence_scores(clf, rows, y, method=method, random_state=0) for rows in (mapped, X))
    assert found == pytest.approx(expected, rel=1e-5 if method == "cg" else 1e-9, abs=1e-12)


def test_a_memory_map_is_transformed_in_pieces_once_its_outputs_would_fill_the_working_memory(tmp_path):
    X = np.random.RandomState(0).normal(size=(40_000, D)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    expected = influence_scores(pipe, X, y, X[:40], y[:40])
    assert source_of(mapped, transformed=True) is None
    with config_context(working_memory=0.5):
        assert isinstance(source_of(mapped, transformed=True), SlicedRows)
        assert influence_scores(pipe, mapped, y, X[:40], y[:40]) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def csr_over_maps(X: sp.csr_array, folder) -> sp.csr_array:
    np.save(folder / "data.npy", X.data)
    np.save(folder / "indices.npy", X.indices)
    mapped = sp.csr_array(X.shape, dtype=X.dtype)
    mapped.data, mapped.indices = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("data", "indices"))
    mapped.indptr = X.indptr
    return mapped


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("method", METHODS)
def test_csr_over_memory_maps(tmp_path, method, dtype):
    dense = np.random.RandomState(0).randint(0, 4, size=(N, D)).astype(dtype)
    X, y = sp.csr_array(dense), (dense[:, 0] > dense[:, 1]).astype(int)
    mapped = csr_over_maps(X, tmp_path)
    clf = LogisticRegression().fit(X, y)
    assert (source_of(mapped) is None) == (dtype != np.int32)
    found, expected = (influence_scores(clf, rows, y, method=method, random_state=0) for rows in (mapped, X))
    rounding = 1e-4 if dtype == np.float32 else 1e-9
    assert found == pytest.approx(
        expected, rel=1e-4 if method == "cg" else rounding, abs=1e-8 if rounding > 1e-9 else 1e-12
    )


def test_weights_regression_and_targets_from_dask(X_y, tmp_path):
    array = pytest.importorskip("dask.array", reason="needs dask")
    X, _ = X_y
    y = X @ np.arange(1.0, D + 1) + np.random.RandomState(1).normal(size=N)
    weight = np.random.RandomState(2).uniform(0.5, 2, size=N)
    ridge = Ridge().fit(X, y, sample_weight=weight)
    expected = influence_scores(ridge, X, y, X[:40], y[:40], method="exact", sample_weight=weight)
    home = at_home("dask array", X, tmp_path)
    found = influence_scores(
        ridge, home, array.from_array(y, chunks=50), X[:40], y[:40], method="exact", sample_weight=weight
    )
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.usefixtures("small_pieces")
def test_scores_do_not_depend_on_the_working_memory(X_y, tmp_path):
    X, y = X_y
    clf = LogisticRegression().fit(X, y)
    home = at_home("h5py", X, tmp_path)
    expected = influence_scores(clf, home, y, X[:40], y[:40])
    with config_context(working_memory=1 / 256):  # 4 KiB
        assert influence_scores(clf, home, y, X[:40], y[:40]) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.usefixtures("small_pieces")
def test_per_validation_row_of_streamed_rows(X_y, tmp_path):
    X, y = X_y
    clf, rows = fitted_on("parquet", X, y)
    home = at_home("parquet", X, tmp_path)
    matrix = np.concatenate(
        list(influence_scores(clf, home, y, rows[:7], y[:7], method="exact", per_validation_row=True))
    )
    assert matrix.mean(axis=0) == pytest.approx(influence_scores(clf, rows, y, rows[:7], y[:7], method="exact"))


# --- a stream itself --------------------------------------------------------------------------------------------------


def stream_of(X, **options) -> RowStream:
    clf = LogisticRegression().fit(np.eye(X.shape[1]), np.arange(X.shape[1]) % 2)
    return as_model(clf).prepare(X, **options)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "key",
    [
        slice(None), slice(3, 200), slice(10, 10), slice(40, 3, -7), slice(0, None, 30), np.array([229, 0, 41, 41, -1]),
        np.arange(N) % 3 == 0, np.zeros(0, dtype=int),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["h5py", "dask array", "sparse"])
def test_rows_of_a_stream_are_taken_as_those_of_an_array(X_y, tmp_path, kind, key):
    X = X_y[0]
    if kind == "sparse":
        X = (X > 0.5).astype(np.int32)
        stream = stream_of(csr_over_maps(sp.csr_array(X), tmp_path))
        assert np.array_equal(stream[key].toarray(), X[key])
        return
    stream = stream_of(at_home(kind, X, tmp_path))
    assert np.array_equal(stream[key], X[key])
    assert len(stream) == N
    assert np.array_equal(np.asarray(stream), X)


@pytest.mark.usefixtures("small_pieces")
def test_blocks_of_a_stream_cover_its_rows_and_lie_in_one_piece_each(X_y, tmp_path):
    stream = stream_of(at_home("zarr", X_y[0], tmp_path))
    slices = list(row_slices(stream, n_columns_of_work=2))
    assert [at.start for at in slices] == [0, *(at.stop for at in slices[:-1])]
    assert slices[-1].stop == N
    pieces = [np.searchsorted(stream.edges, [at.start, at.stop - 1], side="right") for at in slices]
    assert all(first == last for first, last in pieces)
    assert np.array_equal(np.concatenate([take(stream, at) for at in slices]), X_y[0])


@pytest.mark.usefixtures("small_pieces")
def test_pieces_are_of_whole_chunks(X_y, tmp_path):
    edges = source_of(at_home("h5py", X_y[0], tmp_path)).edges
    assert all(edge % 37 == 0 for edge in edges[:-1])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("key", [np.array([N]), np.array([[1]]), np.array([0.5]), "rows", (slice(None), 0)])
def test_rows_that_a_stream_has_not_are_refused(X_y, tmp_path, key):
    with pytest.raises((IndexError, TypeError, ValueError)):
        stream_of(at_home("h5py", X_y[0], tmp_path))[key]


def test_a_piece_is_read_once_for_all_its_blocks_in_a_pass(X_y):
    X, y = X_y

    class Counted:
        shape, edges, reads = X.shape, [0, 100, N], 0

        def piece(self, k):
            Counted.reads += 1
            return X[self.edges[k] : self.edges[k + 1]]

    clf = LogisticRegression().fit(X, y)
    with config_context(working_memory=1 / 256):
        influence_scores(clf, Counted(), y, X[:40], y[:40])
    assert Counted.reads <= 4  # two pieces to look at the first and to score, whatever the blocks


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["ip", "exact", "self_tracin"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_value_that_is_not_finite_is_found_in_whichever_piece_it_is(X_y, tmp_path, kind, method, value):
    X, y = X_y
    clf, rows = fitted_on(kind, X, y)
    spoiled = X.copy()
    spoiled[201, 2] = value
    with pytest.raises(ValueError, match=r"(?i)input X contains (nan|infinity)"):
        influence_scores(clf, at_home(kind, spoiled, tmp_path), y, rows[:40], y[:40], method=method)


@pytest.mark.usefixtures("small_pieces")
def test_validation_rows_that_are_not_finite_are_named(X_y, tmp_path):
    X, y = X_y
    clf = LogisticRegression().fit(X, y)
    spoiled = X.copy()
    spoiled[201, 2] = np.nan
    with pytest.raises(ValueError, match="X_val contains NaN"):
        influence_scores(clf, X, y, at_home("h5py", spoiled, tmp_path), y)


@pytest.mark.parametrize("kind", SOURCES)
def test_rows_of_another_width_are_refused(X_y, tmp_path, kind):
    X, y = X_y
    clf, rows = fitted_on(kind, X, y)
    with pytest.raises(ValueError, match=r"features|feature names"):
        influence_scores(clf, at_home(kind, X[:, :3], tmp_path), y, rows[:40], y[:40])


@pytest.mark.parametrize("kind", SOURCES)
def test_targets_of_another_length_are_refused(X_y, tmp_path, kind):
    X, y = X_y
    clf, _ = fitted_on(kind, X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        influence_scores(clf, at_home(kind, X, tmp_path), y[:-1])


def test_pieces_of_different_dtypes_are_refused(X_y):
    X, y = X_y

    class Mixed:
        shape, edges = X.shape, [0, 100, N]

        def piece(self, k):
            return X[self.edges[k] : self.edges[k + 1]].astype([np.float64, np.float32][k])

    with pytest.raises(ValueError, match="Rows 100 to 230 of X are of dtype float32, and those before of float64"):
        influence_scores(LogisticRegression().fit(X, y), Mixed(), y)


def test_transformers_that_do_not_treat_each_row_by_itself_are_refused(X_y, tmp_path):
    X, y = X_y
    pipe = make_pipeline(FunctionTransformer(np.copy), LogisticRegression()).fit(X, y)
    pipe.set_params(functiontransformer__func=lambda block: block[::2])
    with pytest.raises(ValueError, match="must treat each row by itself"):
        influence_scores(pipe, at_home("h5py", X, tmp_path), y)


def test_columns_of_text_are_refused(X_y, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    X, y = X_y
    frame = pd.DataFrame(X, columns=NAMES)
    clf = LogisticRegression().fit(frame, y)
    frame.assign(x1="text").to_parquet(tmp_path / "X.parquet")
    with pytest.raises(ValueError, match="could not convert string to float"):
        influence_scores(clf, parquet_rows(tmp_path / "X.parquet"), y)


def test_strange_shapes_are_refused(X_y, tmp_path):
    array = pytest.importorskip("dask.array", reason="needs dask")
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    X, y = X_y
    clf = LogisticRegression().fit(X, y)
    file = h5py.File(tmp_path / "X.h5", "w")
    for given in (array.from_array(y), file.create_dataset("y", data=y)):
        with pytest.raises(ValueError, match="Expected 2D array"):
            influence_scores(clf, given, y)
    with pytest.raises(ValueError, match="minimum of 1"):
        influence_scores(clf, file.create_dataset("none", data=X[:0]), y[:0])
    unknown = array.from_array(X, chunks=(100, -1))
    unknown = unknown[unknown[:, 0] > -10]
    with pytest.raises(ValueError, match=r"compute_chunk_sizes"):
        influence_scores(clf, unknown, y)
    expected = influence_scores(clf, X, y)
    assert influence_scores(clf, unknown.compute_chunk_sizes(), y) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_a_dask_collection_that_is_no_table_is_refused(X_y):
    bag = pytest.importorskip("dask.bag", reason="needs dask")
    X, y = X_y
    with pytest.raises(TypeError, match="must be a Dask array or DataFrame, got a Bag"):
        influence_scores(LogisticRegression().fit(X, y), bag.from_sequence(X.tolist()), y)


def test_a_lazy_frame_of_polars_is_refused(X_y):
    polars = pytest.importorskip("polars", reason="needs polars")
    X, y = X_y
    with pytest.raises(TypeError, match=r"X\.collect\(\)"):
        influence_scores(LogisticRegression().fit(X, y), polars.LazyFrame(X), y)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("method", ["leave_one_out", "data_shapley", "beta_shapley"])
@pytest.mark.parametrize("kind", ["h5py", "dask array", "parquet"])
def test_methods_that_refit_say_that_they_need_rows_in_memory(X_y, tmp_path, kind, method):
    X, y = X_y
    clf, _ = fitted_on(kind, X, y)
    with pytest.raises(TypeError, match="need rows in memory"):
        influence_scores(clf, at_home(kind, X, tmp_path), y, method=method)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("method", ["tda", "knn_shapley"])
def test_methods_that_draw_batches_load_what_fits_and_refuse_the_rest(tmp_path, method):
    X = np.random.RandomState(0).normal(size=(4000, D))
    y = (X[:, 0] > 0).astype(int)
    clf = LogisticRegression().fit(X, y)
    home = at_home("h5py", X, tmp_path)
    with config_context(working_memory=1 / 64), pytest.raises((TypeError, ValueError), match="in memory"):
        influence_scores(clf, home, y, X[:5], y[:5], method=method, random_state=0)


@pytest.mark.parametrize("make", [InfluenceSelector, InfluenceRelabeler, InfluenceReweighter])
@pytest.mark.parametrize("kind", [*SOURCES[:5], "parquet"])
def test_curators_refuse_rows_that_they_cannot_pick_from(X_y, tmp_path, kind, make):
    X, y = X_y
    with pytest.raises(TypeError, match=f"{make.__name__} fits models on rows that it picks.*Load it"):
        make().fit(at_home(kind, X, tmp_path), y)


def test_curated_estimators_refuse_them_too(X_y, tmp_path):
    X, y = X_y
    with pytest.raises(TypeError, match="fits models on rows that it picks"):
        CuratedClassifier(LogisticRegression(), InfluenceSelector()).fit(at_home("h5py", X, tmp_path), y)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ["h5py", "dask array"])
def test_curators_take_memory_maps_and_stream_validation_rows(X_y, tmp_path, kind):
    X, y = X_y
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    plain = InfluenceSelector(random_state=0).fit(X, y, X_val=X[:60], y_val=y[:60])
    streamed = InfluenceSelector(random_state=0).fit(mapped, y, X_val=at_home(kind, X[:60], tmp_path), y_val=y[:60])
    assert streamed.scores_ == pytest.approx(plain.scores_, rel=1e-9, abs=1e-13)
    assert np.array_equal(streamed.support_, plain.support_)


def test_nets_refuse_rows_that_are_elsewhere(X_y, tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    from sklearn.neural_network import MLPClassifier

    X, y = X_y
    net = MLPClassifier((3,), max_iter=3, random_state=0)
    with pytest.warns(UserWarning, match="converge"):
        net.fit(X, y)
    with pytest.raises(TypeError, match="in memory or in a memory map"):
        influence_scores(net, at_home("h5py", X, tmp_path), y)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_rows_and_columns(X_y, tmp_path):
    X, _ = X_y
    home = at_home("parquet", X, tmp_path)
    assert isinstance(home, ParquetRows)
    assert (home.shape, len(home), home.edges[:3], home.edges[-1]) == ((N, D), N, [0, 37, 74], N)
    assert home.column("other").tolist() == ["text"] * N
    assert np.array_equal(home.column("x3"), X[:, 3])
    with pytest.raises(ValueError, match="no column 'y'"):
        home.column("y")
    with pytest.raises(ValueError, match="none named"):
        parquet_rows(tmp_path / "X.parquet", columns=["x0", "x9"])


def test_parquet_columns_are_given_in_the_order_that_was_asked(X_y, tmp_path):
    X, y = X_y
    at_home("parquet", X, tmp_path)
    order = ["x4", "x0"]
    clf = LogisticRegression().fit(pd.DataFrame(X, columns=NAMES)[order], y)
    found = influence_scores(clf, parquet_rows(tmp_path / "X.parquet", columns=order), y)
    expected = influence_scores(clf, pd.DataFrame(X, columns=NAMES)[order], y)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_parquet_folders_datasets_and_empty_files(X_y, tmp_path):
    datasets = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    X, _ = X_y
    at_home("parquet files", X, tmp_path)
    pd.DataFrame(X[:0], columns=NAMES).to_parquet(tmp_path / "part-9.parquet")
    for source in (tmp_path, str(tmp_path), datasets.dataset(tmp_path, format="parquet")):
        rows = parquet_rows(source)
        assert rows.shape == (N, D)
        assert np.array_equal(np.concatenate([rows.piece(k) for k in range(len(rows.edges) - 1)]), X)


def test_other_formats_are_no_parquet(tmp_path):
    datasets = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    (tmp_path / "X.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TypeError, match="must be of Parquet files"):
        parquet_rows(datasets.dataset(tmp_path / "X.csv", format="csv"))


@pytest.mark.filterwarnings("ignore:SGDClassifier is not at a minimum")
def test_a_model_of_stochastic_descent_is_streamed(X_y, tmp_path):
    X, y = X_y
    clf = SGDClassifier(loss="log_loss", alpha=0.1, random_state=0).fit(X, y)
    home = at_home("h5py", X, tmp_path)
    for method in (IPEnsemble(3), CG(tol=1e-8)):
        found, expected = (influence_scores(clf, rows, y, method=method, random_state=0) for rows in (home, X))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.slow
def test_the_benchmark_of_large_tables_runs_small(monkeypatch):
    monkeypatch.setattr(large, "_is_there", lambda source: source in (large.CSR, large.PARQUET))
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    result = large.run(quick=True)
    assert [row["source"] for row in result["rows"]] == [large.MEMMAP, large.CSR, large.PARQUET]
    for row in result["rows"]:
        assert row["rows"] / row["seconds"] > 0
        assert (row["of_reading"] is None) == (row["source"] != large.MEMMAP)
        if row["extra_mib"] is not None:
            assert 8 * row["rows"] / 2**20 * 0.9 < row["extra_mib"] < 512  # the scores are in it
    result["gates"] = large._gates(result["rows"])
    rates, asked = large.tables(result).values()
    assert len(rates) == 3
    assert {entry["passed"] for entry in asked} <= {True, False}
