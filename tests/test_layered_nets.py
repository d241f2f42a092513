"""DataInf, EKFAC and TDA on nets, against dense per-row gradients of each layer."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import InfluenceSelector, influence_scores  # noqa: E402
from skinfluence.methods import EKFAC, TDA, DataInf, TracIn  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402
from skinfluence.snapshots import CheckpointRecorder  # noqa: E402


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4, padding_idx=0)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.embedding(x)).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def make(name):
    """A float64 module, rows and labels."""
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    if name == "mlp":
        module, X = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), rng.randn(40, 5)
    elif name == "cnn":
        module = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, dilation=1, groups=2), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip
        X = rng.randn(40, 2, 6, 6)
    elif name == "words":
        module, X = Words(), rng.randint(0, 6, (40, 5))
    else:
        module, X = Recurrent(), rng.randn(40, 4, 3)
    module = module.double()
    return module, X, rng.randint(0, 3, 40)


def gradients(module, X, y):
    """Per-row gradients ``(n, size)`` of each parameter."""
    module.eval()
    rows = []
    for x, label in zip(X, y, strict=True):
        out = module(torch.from_numpy(np.asarray(x)[None]))
        loss = nn.functional.cross_entropy(out, torch.tensor([label]))
        rows.append(torch.autograd.grad(loss, list(module.parameters())))
    names = [name for name, _ in module.named_parameters()]
    return {name: np.stack([row[i].numpy().ravel() for row in rows]) for i, name in enumerate(names)}


def layers_of(module, groups=()):
    """Names of the parameters of each layer; a grouped convolution is one layer a group."""
    found = {}
    for name, _ in module.named_parameters():
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


@pytest.mark.parametrize("name", ["mlp", "words", "gru"])
def test_datainf_is_the_mean_of_inverses_layer_by_layer(name):
    module, X, y = make(name)
    G = gradients(module, X, y)
    wanted = np.zeros(len(X))
    layers = layers_of(module)
    if name == "gru":  # of no known kind: each parameter is its own layer
        layers = {n: [n] for n in layers.pop("gru")} | layers
    for names in layers.values():
        rows = np.concatenate([G[n] for n in names], axis=1)
        g = rows[:10].mean(axis=0)
        damping = 0.1 * (rows**2).mean()
        u = (g - (rows * ((rows @ g) / (damping + (rows**2).sum(axis=1)))[:, None]).mean(axis=0)) / damping
        wanted += rows @ u / len(X)
    found = influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:10], y[:10], method=DataInf())
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10 * np.abs(wanted).max())


def test_ekfac_of_linear_layers_is_its_dense_kronecker_form():
    module, X, y = make("mlp")
    G = gradients(module, X, y)
    x = torch.from_numpy(X)
    hidden = module[1](module[0](x)).detach().numpy()
    wanted = np.zeros(len(X))
    for layer, inputs in (("0", X), ("2", hidden)):
        A = np.column_stack([inputs, np.ones(len(X))])
        delta = G[f"{layer}.bias"]
        Q_A, Q_B = np.linalg.eigh(A.T @ A)[1], np.linalg.eigh(delta.T @ delta)[1]
        rows = np.einsum("nb,na->nba", delta, A)
        rotated = Q_B.T @ rows @ Q_A
        spectrum = (rotated**2).mean(axis=0)
        g = rotated[:10].mean(axis=0)
        wanted += (rotated * (g / (spectrum + 0.1 * spectrum.mean()))).sum(axis=(1, 2)) / len(X)
    method = EKFAC(labels="true")
    found = influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:10], y[:10], method=method)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())


def test_ekfac_of_convolutions_sums_over_positions():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)).double()
    module[3].requires_grad_(False)
    rng = np.random.RandomState(0)
    X, y = rng.randn(30, 2, 5), rng.randint(0, 3, 30)
    patches = np.lib.stride_tricks.sliding_window_view(np.pad(X, ((0, 0), (0, 0), (1, 1))), 3, axis=2)
    A = patches.transpose(0, 2, 1, 3).reshape(30, 5, 6)
    A = np.concatenate([A, np.ones((30, 5, 1))], axis=2)
    B = []
    for x, label in zip(X, y, strict=True):
        h = module[0](torch.from_numpy(x[None])).detach().requires_grad_()
        loss = nn.functional.cross_entropy(module[1:](h), torch.tensor([label]))
        B.append(torch.autograd.grad(loss, h)[0][0].T.numpy())
    B = np.stack(B)
    Q_A = np.linalg.eigh(np.einsum("nta,ntc->ac", A, A))[1]
    Q_B = np.linalg.eigh(np.einsum("nta,ntc->ac", B, B))[1]
    rotated = Q_B.T @ np.einsum("ntb,nta->nba", B, A) @ Q_A
    spectrum = (rotated**2).mean(axis=0)
    wanted = (rotated * (rotated[:5].mean(axis=0) / (spectrum + 0.1 * spectrum.mean()))).sum(axis=(1, 2)) / 30
    found = influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:5], y[:5], method=EKFAC(labels="true"))
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())


def test_ekfac_of_embeddings_counts_each_index_of_a_row_once():
    module, X, y = make("words")
    module.norm.requires_grad_(False)
    module.head.requires_grad_(False)
    assert (X[:, :1] == X[:, 1:]).any()
    G = gradients_of(module, X, y, "embedding.weight").reshape(40, 6, 4)
    pieces = gradients_at_positions(module, X, y)
    Q = np.linalg.eigh(np.einsum("nta,ntc->ac", pieces, pieces))[1]
    rotated = G @ Q
    spectrum = (rotated**2).mean(axis=0)
    wanted = (rotated * (rotated[:5].mean(axis=0) / (spectrum + 0.1 * spectrum.mean()))).sum(axis=(1, 2)) / 40
    found = influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:5], y[:5], method=EKFAC(labels="true"))
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())


def gradients_of(module, X, y, name):
    found = []
    for x, label in zip(X, y, strict=True):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(x[None])), torch.tensor([label]))
        found.append(torch.autograd.grad(loss, dict(module.named_parameters())[name])[0].numpy().ravel())
    return np.stack(found)


def gradients_at_positions(module, X, y):
    """The gradients at each looked-up vector, those of padding zero."""
    found = []
    for x, label in zip(X, y, strict=True):
        h = module.embedding(torch.from_numpy(x[None])).detach().requires_grad_()
        loss = nn.functional.cross_entropy(module.head(module.norm(h).mean(dim=1)), torch.tensor([label]))
        g = torch.autograd.grad(loss, h)[0][0].numpy()
        found.append(g * (x != 0)[:, None])
    return np.stack(found)


@pytest.mark.parametrize("name", ["mlp", "cnn", "words"])
@pytest.mark.parametrize("method", [DataInf(), EKFAC(), EKFAC(labels="true")], ids=str)
def test_blocks_and_order_do_not_matter(name, method):
    module, X, y = make(name)
    pair = (module, nn.CrossEntropyLoss())
    whole = influence_scores(pair, X, y, X[:10], y[:10], method=method, random_state=0)
    small = DifferentiableNet(pair, block_rows=3)
    cut = influence_scores(small, X, y, X[:10], y[:10], method=method, random_state=0)
    np.testing.assert_allclose(cut, whole, rtol=1e-7, atol=1e-10 * np.abs(whole).max())
    if getattr(method, "labels", "true") == "true":  # drawn labels go by a row's place
        order = np.random.RandomState(1).permutation(len(X))
        shuffled = influence_scores(pair, X[order], y[order], X[:10], y[:10], method=method, random_state=0)
        np.testing.assert_allclose(shuffled, whole[order], rtol=1e-7, atol=1e-10 * np.abs(whole).max())


def test_what_is_not_covered_is_named():
    module, X, y = make("gru")
    pair = (module, nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"gru\.weight_ih_l0.*uncovered='diagonal'"):
        influence_scores(pair, X, y, X[:10], y[:10], method="ekfac")
    left = influence_scores(pair, X, y, X[:10], y[:10], method=EKFAC(labels="true", uncovered="leave_out"))
    head = DifferentiableNet(pair, parameters="last_layer")
    alone = influence_scores(head, X, y, X[:10], y[:10], method=EKFAC(labels="true"))
    np.testing.assert_allclose(left, alone, rtol=1e-7)
    diagonal = influence_scores(pair, X, y, X[:10], y[:10], method=EKFAC(labels="true", uncovered="diagonal"))
    G = gradients(module, X, y)
    wanted = alone.copy()
    for name in G:
        if name.startswith("gru"):
            spectrum = (G[name] ** 2).mean(axis=0)
            wanted += G[name] @ (G[name][:10].mean(axis=0) / (spectrum + 0.1 * spectrum.mean())) / len(X)
    np.testing.assert_allclose(diagonal, wanted, rtol=1e-7)


def test_tda_of_a_net_needs_checkpoints_and_takes_vectors():
    module, X, y = make("mlp")
    pair = (module, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="needs checkpoints"):
        influence_scores(pair, X, y, X[:10], y[:10], method="tda")
    flat = np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])
    found = influence_scores(pair, X, y, X[:10], y[:10], method=TDA(checkpoints=[flat], labels="true"))
    wanted = influence_scores(pair, X, y, X[:10], y[:10], method=EKFAC(labels="true"))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    skorch = pytest.importorskip("skorch")
    rng = np.random.RandomState(0)
    X, y = rng.randn(60, 4).astype("f4"), rng.randint(0, 2, 60)

    def fit(recorder):
        torch.manual_seed(0)
        return skorch.NeuralNetClassifier(
            nn.Linear, module__in_features=4, module__out_features=2, criterion=nn.CrossEntropyLoss, lr=0.1,
            max_epochs=5, batch_size=25, train_split=None, verbose=0, callbacks=[("keep", recorder)],
        ).fit(X, y)  # fmt: skip

    return fit, X, y


def test_the_recorder_keeps_what_the_net_was(trained, tmp_path):
    fit, X, y = trained
    in_memory, on_disk = CheckpointRecorder(every=2), CheckpointRecorder(every=2, dirname=tmp_path / "run")
    net = fit(in_memory)
    fit(on_disk)
    history = in_memory.history_
    # Three batches an epoch: 25, 25 and 10 rows; the last checkpoint stands for one epoch.
    np.testing.assert_allclose(history.weights, np.array([2, 2, 1]) * 3 * 0.1 / 60)
    last = torch.cat([t.reshape(-1) for t in net.module_.state_dict().values()])
    np.testing.assert_array_equal(torch.cat([t.reshape(-1) for t in history.params[-1].values()]), last)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "epoch_00002.pt", "epoch_00004.pt", "epoch_00005.pt",
    ]  # fmt: skip
    scores = [
        influence_scores(net, X, y, X[:20], y[:20], method=TracIn(recorder.history_))
        for recorder in (in_memory, on_disk)
    ]
    np.testing.assert_array_equal(*scores)
    # A net that was trained with the callback brings its own.
    np.testing.assert_array_equal(influence_scores(net, X, y, X[:20], y[:20], method="tracin"), scores[0])
    wanted = np.zeros(60)
    for weight, state in zip(history.weights, history.params, strict=True):
        module = nn.Linear(4, 2)
        module.load_state_dict(state)
        wanted += weight * influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:20], y[:20], method="ip")
    np.testing.assert_allclose(scores[0], wanted, rtol=1e-4, atol=1e-9)
    for variant in ("ensemble", "source"):
        found = influence_scores(net, X, y, X[:20], y[:20], method=TDA(variant), random_state=0)
        assert np.corrcoef(found, wanted)[0, 1] > 0.5


def test_tracin_through_cross_fitting(trained):
    fit, X, y = trained
    net = fit(CheckpointRecorder())
    selector = InfluenceSelector(net, method="tracin", cv=3, removal_rate=0.1, random_state=0).fit(X, y)
    assert selector.support_.sum() == 54
    assert np.isfinite(selector.scores_).all()


def test_state_dicts_that_do_not_fit_are_refused(trained, tmp_path):
    fit, X, y = trained
    net = fit(CheckpointRecorder())
    other = nn.Linear(5, 2).state_dict()
    with pytest.raises(ValueError, match=r"'weight' must have shape \(2, 4\), got \(2, 5\)"):
        influence_scores(net, X, y, X, y, method=TracIn([other]))
    with pytest.raises(ValueError, match="has no 'weight'"):
        influence_scores(net, X, y, X, y, method=TracIn([{"other": torch.zeros(1)}]))
    with pytest.raises(FileNotFoundError):
        influence_scores(net, X, y, X, y, method=TracIn([str(tmp_path / "none.pt")]))
    # A file that would run code is not read.
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Evil(str(tmp_path / "was_here"))))
    with pytest.raises(ValueError, match="weights_only"):
        influence_scores(net, X, y, X, y, method=TracIn([tmp_path / "bad.pt"]))
    assert not (tmp_path / "was_here").exists()
    with pytest.raises(TypeError, match="is none"):
        influence_scores(LogisticRegression().fit(X, y), X, y, X, y, method=TracIn([other]))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
