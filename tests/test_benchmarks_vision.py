"""The experiment with CIFAR-10N: its parts on small made images, its tables and its pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks import _data, _runner
from benchmarks.experiments import (
    _vision_data,
    _vision_features,
    _vision_linear,
    _vision_net,
    _vision_parts,
    _vision_tables,
    vision,
)
from skinfluence import influence_scores

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

N_TRAIN, N_TEST = 400, 300
SIZES, NET_SIZES = vision.QUICK


@pytest.fixture(scope="module")
def data_home(tmp_path_factory):
    """Images of one colour a class, with noise, as the files of CIFAR-10; human labels of which some are wrong."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, size=(10, 3))
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        label = np.arange(n) % 10
        files = []
        for y in label:
            pixels = np.clip(colours[y] + rng.normal(scale=25, size=(32, 32, 3)), 0, 255).astype(np.uint8)
            stream = BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=90)
            files.append(stream.getvalue())
        offsets = np.cumsum([0, *map(len, files)])
        data = np.frombuffer(b"".join(files), dtype=np.uint8)
        np.savez(folder / f"cifar10_{part}_jpg.npz", data=data, offsets=offsets, label=label, names=np.arange(10))
    true = np.arange(N_TRAIN) % 10
    given = {
        name: _data.flip_labels(true, share, seed=1)[0]
        for name, share in (("aggre_label", 0.1), ("random_label1", 0.2), ("worse_label", 0.4))
    }
    np.savez(folder / "cifar10n.npz", clean_label=true, **given)
    return folder


@pytest.fixture(scope="module")
def result(data_home):
    """A quick run, with what every run adds to it."""
    pytest.importorskip("torch")
    pytest.importorskip("skorch")
    found = vision.run(quick=True, data_home=str(data_home))
    return {
        "benchmark": "vision", "quick": True, "date": "2001-02-03T04:05:06+00:00", "versions": {"Python": "3"},
        "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1}, **found,
    }  # fmt: skip


def test_images_come_in_the_order_of_their_labels(data_home):
    images = _vision_data.load_images("train", data_home)
    assert images.shape == (N_TRAIN, 32, 32, 3)
    assert images.dtype == np.uint8
    some = np.array([11, 3, 250])
    assert np.array_equal(_vision_data.load_images("train", data_home, some), images[some])
    assert np.array_equal(_vision_data.load_images("train", data_home, slice(5, 9)), images[5:9])
    mean = images.mean(axis=(1, 2))
    labels = _vision_data.load_labels("train", data_home)
    within = np.concatenate([mean[labels == k] - mean[labels == k].mean(axis=0) for k in range(10)])
    assert np.abs(within).max() < 10


@pytest.mark.parametrize(("noise", "share"), [("aggregate", 0.1), ("random", 0.2), ("worst", 0.4)])
def test_human_labels_are_wrong_where_they_differ_from_the_true_ones(noise, share, data_home):
    split = _vision_linear.draw(noise, 3, data_home, SIZES)
    _, true = _vision_data.load_human_labels(noise, data_home)
    assert np.array_equal(split.wrong, split.y != true)
    assert split.wrong.mean() == pytest.approx(share)
    assert (len(split.y), len(split.y_val), len(split.y_test)) == (SIZES.train, SIZES.val, SIZES.test)


def test_a_seed_parts_the_test_images(data_home):
    first, again, other = (_vision_linear.draw("worst", seed, data_home, SIZES) for seed in (0, 0, 1))
    assert np.array_equal(first.X_val, again.X_val)
    assert not np.array_equal(first.X_val, other.X_val)
    assert np.array_equal(first.X, other.X)
    rows = np.concatenate([first.X_val, first.X_test])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_reduced_features_have_variance_one_and_learn_from_training_rows_alone():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(200, 8)) * 2.0 ** np.arange(8), rng.normal(size=(50, 8))
    made, made_test = _vision_features.reduced(train, test, 5)
    assert np.allclose(made.mean(axis=0), 0, atol=1e-10)
    assert np.allclose(np.cov(made.T), np.eye(5), atol=1e-10)
    assert np.array_equal(made, _vision_features.reduced(train, test[:10] + 100, 5)[0])
    assert np.allclose(made_test[:10], _vision_features.reduced(train, test[:10], 5)[1])


def test_features_are_made_once_and_go_on_after_a_stop(data_home, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    calls = []

    class Network(torch.nn.Module):
        def extract_features(self, X):
            calls.append(len(X))
            if len(calls) == 3 and stops:
                raise KeyboardInterrupt
            return X[:, :, :2, :2]

    monkeypatch.setenv(_vision_features.ENVIRONMENT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(_vision_features, "PIECE", 50)
    monkeypatch.setattr(_vision_features, "pretrained", Network)
    stops = True
    with pytest.raises(KeyboardInterrupt):
        _vision_features.pretrained_features("test", data_home, device="cpu")
    stops = False
    found = _vision_features.pretrained_features("test", data_home, device="cpu")
    assert calls == [50] * (N_TEST // 50 + 1)
    assert found.shape == (N_TEST, 3)
    assert found.dtype == np.float16
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10_test_efficientnet_lite0_96.npy"]
    assert np.array_equal(_vision_features.pretrained_features("test", data_home), found)
    assert len(calls) == N_TEST // 50 + 1
    whole = _vision_features.extract(Network(), _vision_data.load_images("test", data_home), "cpu")
    assert np.array_equal(whole, found)


def test_without_the_pretrained_network_a_full_run_says_what_to_install(data_home, tmp_path, monkeypatch):
    monkeypatch.setenv(_vision_features.ENVIRONMENT_VARIABLE, str(tmp_path))
    monkeypatch.setitem(_vision_features.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*no-such-package.*--quick"):
        _vision_linear.table(data_home, _vision_linear.Sizes())


def test_missing_data_is_named_before_any_work(tmp_path):
    with pytest.raises(_data.MissingData, match=r"cifar10_train_jpg\.npz"):
        vision.run(data_home=str(tmp_path))


def test_the_head_is_logistic_regression_and_remembers_fits(monkeypatch):
    monkeypatch.setattr(_vision_linear.Head, "fitted_before", {})
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)), rng.integers(3, size=90)
    plain = LogisticRegression(C=0.5).fit(X, y)
    first = _vision_linear.Head(C=0.5).fit(X, y)
    assert np.array_equal(first.coef_, plain.coef_)
    first.coef_[:] = 0  # what is remembered is no part of what was given out
    assert np.array_equal(_vision_linear.Head(C=0.5).fit(X, y).coef_, plain.coef_)
    assert len(_vision_linear.Head.fitted_before) == 1
    other = _vision_linear.Head(C=0.5).fit(X[:60], y[:60])
    assert np.array_equal(other.coef_, LogisticRegression(C=0.5).fit(X[:60], y[:60]).coef_)
    assert not np.array_equal(_vision_linear.Head(C=5.0).fit(X, y).coef_, plain.coef_)


def test_a_judge_says_what_a_plain_refit_says(data_home):
    split = _vision_linear.draw("worst", 0, data_home, SIZES)
    head = _vision_linear.Head(C=SIZES.C, max_iter=1000, tol=1e-6)
    judge = _vision_linear.Judge(split, head.fit(split.X, split.y))
    keep = _vision_linear.lowest_removed(np.random.default_rng(0).random(len(split.y)), 0.3)
    assert (~keep).sum() == round(0.3 * len(keep))
    refit = LogisticRegression(C=SIZES.C, max_iter=1000, tol=1e-6).fit(split.X[keep], split.y[keep])
    found = judge.of(keep)
    right = refit.predict(split.X_test) == split.y_test
    everything = head.predict(split.X_test) == split.y_test
    assert found["accuracy"] == right.mean()
    assert found["apart"] == (right != everything).mean() > 0
    assert found["removed"] == pytest.approx(0.3)
    assert found["hit"] == split.wrong[~keep].mean()
    assert judge.of(np.ones(len(keep), dtype=bool))["accuracy"] == everything.mean()
    assert judge.apart(keep, keep) == 0


def test_a_part_is_stored_and_taken_again_only_with_the_same_sizes(data_home, tmp_path, monkeypatch):
    monkeypatch.setenv(_vision_features.ENVIRONMENT_VARIABLE, str(tmp_path))
    computed = []

    def one_seed(noise, seed, home, sizes):
        computed.append(sizes.C)
        return [{"method": "a", "accuracy": np.float64(0.5)}]

    monkeypatch.setattr(_vision_linear, "one_seed", one_seed)
    part = ("linear", "worst", 0)
    for sizes in (SIZES, SIZES, replace(SIZES, C=7.0)):
        (row,) = _vision_parts.stored_or_computed(part, data_home, (sizes, NET_SIZES))
        assert (row["method"], row["accuracy"]) == ("a", 0.5)
    assert computed == [SIZES.C, 7.0]
    (path,) = (tmp_path / "vision").iterdir()
    assert json.loads(path.read_text())["settings"]["C"] == 7.0


def test_a_run_scores_by_every_method_and_finds_wrong_labels(result):
    linear = [row for row in result["rows"] if row["part"] == "linear" and row["sweep"] is None]
    trusted = {row["method"]: row for row in linear if row["protocol"] == _vision_linear.TRUSTED}
    cross = {row["method"]: row for row in linear if row["protocol"] == _vision_linear.CROSS}
    assert set(_vision_linear.TRUSTED_METHODS) < set(trusted)
    assert set(_vision_linear.CROSS_METHODS) < set(cross)
    # Images of one colour are easily told apart, and so is a wrong label.
    assert trusted[_vision_linear.NONE]["accuracy"]["mean"] > 0.7
    for method in ("ip", "ip_ensemble", "exact", _vision_linear.LOSS):
        assert trusted[method]["auroc"]["mean"] > 0.8, method
        assert cross[method]["auroc"]["mean"] > 0.8, method
        assert trusted[method]["hit"]["mean"] == 1.0
    assert abs(trusted[_vision_linear.RANDOM]["auroc"]["mean"] - 0.5) < 0.15
    assert trusted["ip_ensemble"]["apart_ensemble"]["mean"] == 0
    assert cross[_vision_linear.AUTO]["removed"]["mean"] > 0.05
    for net, own in NET_SIZES.items():
        assert {row["method"] for row in result["rows"] if row["part"] == net} >= set(own.methods)
    assert result["refused"] == []


def test_sweeps_begin_with_no_curation_and_meet_the_main_table(result):
    rows = result["rows"]
    none = _vision_tables.without(rows, "linear", "worst")["accuracy"]["mean"]
    for protocol in (_vision_linear.TRUSTED, _vision_linear.CROSS):
        main = {row["method"]: row["accuracy"]["mean"] for row in _vision_tables.chosen(rows, "linear", None, protocol)}
        for row in _vision_tables.chosen(rows, "linear", None, protocol, "removal rate"):
            if row["method"] == _vision_linear.MARGIN:
                continue  # under another name in the main table: the next test
            if row["at"] == 0:
                assert row["accuracy"]["mean"] == none
            if row["at"] == 0.05:
                assert row["accuracy"]["mean"] == main[row["method"]]
    ensembles = [_vision_tables.chosen(rows, "linear", sweep=sweep) for sweep in ("dropout", "members")]
    assert [row["at"] for row in ensembles[0]] == list(_vision_linear.DROPOUTS)
    assert [row["at"] for row in ensembles[1]] == list(_vision_linear.MEMBERS)
    assert len({row["auroc"]["mean"] for row in ensembles[0]}) == len(_vision_linear.DROPOUTS)


def test_baselines_are_swept_as_the_methods_are(result):
    rows = result["rows"]
    for protocol in (_vision_linear.TRUSTED, _vision_linear.CROSS):
        main = {row["method"]: row for row in _vision_tables.chosen(rows, "linear")}
        swept = _vision_tables.swept_rates(rows, protocol, "worst")
        for method, same in (
            (_vision_linear.RANDOM, _vision_linear.RANDOM),
            (_vision_linear.MARGIN, _vision_linear.CLEANLAB_5),
        ):
            if same not in main:
                continue  # cleanlab is not installed
            found = {row["at"]: row for row in swept if row["method"] == method}
            assert list(found) == list(_vision_linear.RATES)
            assert found[0.0]["accuracy"]["mean"] == main[_vision_linear.NONE]["accuracy"]["mean"]
            # The same rows removed, not only as many.
            for key in ("accuracy", "hit", "removed"):
                assert found[_vision_linear.RATE][key]["mean"] == pytest.approx(main[same][key]["mean"])
    tables = _vision_tables.tables(result)
    (first, *_) = tables["IP Ensemble, dropout (Table 4)"]
    assert first[_vision_linear.RANDOM] == _vision_tables.percent(main[_vision_linear.RANDOM]["accuracy"])
    assert first["ip"] == _vision_tables.percent(
        next(
            row
            for row in _vision_tables.chosen(rows, "linear", "worst", _vision_linear.TRUSTED)
            if row["method"] == "ip"
        )["accuracy"]
    )


def test_what_a_net_leaves_out_is_a_part_of_its_own(data_home, result, monkeypatch):
    monkeypatch.setattr(_vision_net, "OTHERS", ("datainf", "knn_shapley"))
    sizes = vision.QUICK[0], NET_SIZES
    found = _vision_parts.compute(("MLP-Mixer, others", "worst", 0), data_home, sizes)
    (alone,) = _vision_parts.compute(("MLP-Mixer, knn_shapley", "worst", 0), data_home, sizes)
    assert alone["accuracy"] == found[1]["accuracy"]
    assert [row["method"] for row in found] == ["datainf", "knn_shapley"]
    sizes = replace(NET_SIZES["MLP-Mixer"], methods=("datainf",))
    whole = {row["method"]: row for row in _vision_net.one_seed("MLP-Mixer", "worst", 0, data_home, sizes)}
    for key in ("accuracy", "apart", "auroc", "hit"):
        assert found[0][key] == whole["datainf"][key], key


def test_self_influence_by_lissa_is_that_of_the_last_layer(data_home, result):
    from skinfluence.nets import DifferentiableNet

    (found,) = _vision_parts.compute((f"MLP-Mixer{_vision_parts.LAST_LAYER}", "worst", 0), data_home, vision.QUICK)
    assert found["method"] == "self_lissa, last layer"
    split = _vision_net.draw("worst", 0, data_home, NET_SIZES["MLP-Mixer"])
    net = _vision_net.fit_net("MLP-Mixer", split.X, split.y, 0, NET_SIZES["MLP-Mixer"])
    head = DifferentiableNet(net, parameters=["8.weight", "8.bias"])
    rows = split.X, split.y, split.X_val, split.y_val
    scores = influence_scores(head, *rows, method="self_lissa", random_state=0)
    for name, value in _vision_linear.detection(scores, split.wrong).items():
        assert found[name] == value


def test_differences_are_paired_by_seed():
    def row(method: str, accuracy: list[float]) -> dict:
        common = {"part": "linear", "noise": "worst", "protocol": _vision_linear.TRUSTED, "sweep": None, "at": None}
        seeds = [common | {"method": method, "accuracy": a, "apart": 0.02, "apart_ensemble": 0.01} for a in accuracy]
        return _runner.aggregate(seeds, vision.BY, ("accuracy", "apart", "apart_ensemble"))[0]

    rows = [row(_vision_linear.NONE, [0.7, 0.8]), row("ip_ensemble", [0.71, 0.83]), row("ip", [0.72, 0.82])]
    first, second = _vision_tables._paired(rows, "linear", 400)
    assert first["against"] == _vision_linear.NONE
    assert first["difference"] == "+2.00 ± 1.41"
    assert first["seeds ahead"] == "2 of 2"
    assert first["± by test rows"] == f"{100 * (0.02 / 400) ** 0.5:.2f}"
    assert (second["difference"], second["seeds ahead"]) == ("+0.00 ± 1.41", "1 of 2")
    assert second["± by test rows"] == f"{100 * (0.01 / 400) ** 0.5:.2f}"


def test_a_result_is_stored_as_tables_and_pictures(result, tmp_path):
    pytest.importorskip("matplotlib")
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    assert _vision_features.RAW in text
    for title in ("Linear head, worst, cross-fitted", "ResNet, worst", "MLP-Mixer: IP Ensemble less each other"):
        assert f"## {title}" in text
    for name in ("vision_rate", "vision_ensemble", "vision_detection"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_head_of_a_pretrained_net_is_fitted_before_the_rest():
    torch = pytest.importorskip("torch")

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(12, 10)

        def features(self, x):
            return x.flatten(1)

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 3, 2, 2)).astype(np.float32), rng.choice([1, 4, 7], 60)
    net = _vision_net.with_fitted_head(Small(), X, y)
    with torch.no_grad():
        found = net.head(net.features(torch.from_numpy(X))).numpy()
    fitted = LogisticRegression(C=_vision_net.HEAD_C, max_iter=500).fit(X.reshape(60, -1), y)
    np.testing.assert_allclose(found[:, [1, 4, 7]], fitted.decision_function(X.reshape(60, -1)), atol=1e-5)
    assert (found[:, [0, 2, 3, 5, 6, 8, 9]] == -10).all()  # no row was of these
