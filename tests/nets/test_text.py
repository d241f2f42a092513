"""A small BERT-like encoder as a skorch module on dicts of tokens: whole and last-layer scores against single rows."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")
from skorch import NeuralNetClassifier  # noqa: E402
from torch import nn  # noqa: E402

from skinfluence import InfluenceSelector, influence_scores  # noqa: E402
from skinfluence.methods import IPEnsemble  # noqa: E402
from skinfluence.models import as_model  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402
from skinfluence.objectives import Counterfactual, Joint  # noqa: E402

N, N_VAL, LENGTH, VOCABULARY = 14, 8, 7, 23


class Encoder(nn.Module):
    """Words and places, one layer of attention over tokens that are no padding, the mean of the states, a head."""

    def __init__(self):
        super().__init__()
        self.words, self.where = nn.Embedding(VOCABULARY, 8, padding_idx=0), nn.Embedding(LENGTH, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, activation="gelu", batch_first=True)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids) + self.where(torch.arange(input_ids.shape[1]))
        x = self.layer(x, src_key_padding_mask=attention_mask == 0)
        return self.head(self.dropout(mean_state(x, attention_mask)))


class Bert(nn.Module):
    """A model of transformers, drawn and not pretrained, and a head."""

    def __init__(self, attention):
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
            max_position_embeddings=LENGTH, attn_implementation=attention,
        )  # fmt: skip
        self.model, self.head = BertModel(config, add_pooling_layer=False), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(mean_state(states, attention_mask))


def mean_state(states, mask):
    kept = mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(dim=1) / kept.sum(dim=1)


def tokens(rng, n):
    lengths = rng.randint(2, LENGTH + 1, n)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.randint(1, VOCABULARY, (n, LENGTH)) * mask, "attention_mask": mask}


KINDS = {"torch": (Encoder, {}), "sdpa": (Bert, {"attention": "sdpa"}), "eager": (Bert, {"attention": "eager"})}


@pytest.fixture(params=list(KINDS))
def kind(request):
    if request.param != "torch":
        pytest.importorskip("transformers")
    return request.param


@pytest.fixture
def fitted(kind, rng):
    """A net trained for an epoch, in double precision, with training and validation rows."""
    module, options = KINDS[kind]
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        module(**options).double(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.1, max_epochs=1,
        batch_size=7, train_split=None, verbose=0, callbacks__print_log=None,
    )  # fmt: skip
    X, V = tokens(rng, N), tokens(rng, N_VAL)
    y, y_val = np.arange(N) % 2, np.arange(N_VAL) % 2
    return net.fit(X, y), X, y, V, y_val


def part(X, at):
    return {name: torch.as_tensor(values[at]) for name, values in X.items()}


def gradient(module, value, names):
    own = dict(module.named_parameters())
    grads = torch.autograd.grad(value, [own[name] for name in names], allow_unused=True)
    parts = [torch.zeros_like(own[n]) if g is None else g for n, g in zip(names, grads, strict=True)]
    return torch.cat([p.reshape(-1) for p in parts]).numpy()


def by_rows(module, X, y, names):
    """The gradient of each row's loss, by a backward pass of that row alone."""
    module.eval()
    target = torch.as_tensor(y)
    losses = (nn.functional.cross_entropy(module(**part(X, slice(i, i + 1))), target[i : i + 1]) for i in range(len(y)))
    return np.stack([gradient(module, loss, names) for loss in losses])


CHOICES = {"all": lambda names: names, "last_layer": lambda names: ["head.weight", "head.bias"]}


def names_of(net, parameters):
    return CHOICES[parameters]([name for name, _ in net.module_.named_parameters()])


@pytest.mark.parametrize("parameters", list(CHOICES))
def test_scores_are_those_of_backward_passes_of_single_rows(fitted, parameters):
    net, X, y, V, y_val = fitted
    names = names_of(net, parameters)
    J = by_rows(net.module_, X, y, names)
    g = by_rows(net.module_, V, y_val, names).mean(axis=0)
    asked = DifferentiableNet(net, parameters=parameters)
    np.testing.assert_allclose(influence_scores(asked, X, y, V, y_val), J @ g / N, rtol=1e-7, atol=1e-12)
    norms = influence_scores(asked, X, y, method="self_tracin")
    np.testing.assert_allclose(norms, -(J**2).sum(axis=1) / N, rtol=1e-7)
    # Without dropout all members are the net itself.
    members = influence_scores(asked, X, y, V, y_val, method=IPEnsemble(2, dropout=0.0), random_state=0)
    np.testing.assert_allclose(members, J @ g / N, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("parameters", list(CHOICES))
def test_counterfactual_scores_of_pairs_of_dicts(fitted, parameters, rng):
    net, X, y, V, y_val = fitted
    names = names_of(net, parameters)
    twins = {**V, "input_ids": (V["input_ids"] % (VOCABULARY - 1) + 1) * V["attention_mask"]}
    J = by_rows(net.module_, X, y, names)
    own, twin = (torch.softmax(net.module_(**part(side, slice(None))), dim=1) for side in (V, twins))
    g = gradient(net.module_, ((own - twin) ** 2).sum(dim=1).mean(), names)
    asked = DifferentiableNet(net, parameters=parameters)
    fairness = Counterfactual(pairs=(V, twins))
    found = influence_scores(asked, X, y, V, y_val, objective=fairness)
    np.testing.assert_allclose(found, J @ g / N, rtol=1e-7, atol=1e-12)
    joint = influence_scores(asked, X, y, V, y_val, objective=Joint(["utility", fairness]))
    utility = influence_scores(asked, X, y, V, y_val)
    ranks = (utility.argsort().argsort() + found.argsort().argsort() + 2) / (2 * N)
    np.testing.assert_allclose(joint, ranks)


@pytest.mark.parametrize("n_twins", [1, N_VAL - 3, N_VAL + 3])
def test_pairs_of_dicts_of_other_lengths_are_refused(n_twins, rng):
    pair = Encoder(), nn.CrossEntropyLoss()
    fairness = Counterfactual(pairs=(tokens(rng, N_VAL), tokens(rng, n_twins)))
    with pytest.raises(ValueError, match=rf"a twin for each row.*pairs\[0\] has {N_VAL} rows, pairs\[1\] {n_twins}"):
        influence_scores(pair, tokens(rng, N), np.arange(N) % 2, objective=fairness)


def test_the_engine_is_forward_mode_and_attention_is_written_out_where_it_is_fused(fitted, kind):
    net, X, _, _, _ = fitted
    model = as_model(net).model
    model.jvp(X, np.ones_like(model.params))
    assert model.engine == ("forward" if kind == "eager" else "forward_math")
    head = as_model(DifferentiableNet(net, parameters="last_layer")).model
    head.jvp(X, np.ones_like(head.params))
    assert head.engine == "forward"  # nothing in the attention moves


def test_padding_is_not_looked_at(fitted):
    net, X, y, V, y_val = fitted
    wider = {name: np.pad(values, ((0, 0), (0, 0))) for name, values in X.items()}
    wider["input_ids"] = np.where(X["attention_mask"] == 1, X["input_ids"], 5)
    np.testing.assert_allclose(
        influence_scores(net, wider, y, V, y_val), influence_scores(net, X, y, V, y_val), rtol=1e-6, atol=1e-12
    )


def test_a_selector_takes_rows_out_of_a_dict(fitted):
    net, X, y, V, y_val = fitted
    curator = InfluenceSelector(net, method="ip", removal_rate=0.2, random_state=0)
    X_kept, y_kept, _ = curator.fit_curate(X, y, X_val=V, y_val=y_val)
    kept = curator.get_support()
    assert kept.sum() == N - int(0.2 * N)
    for name, values in X.items():
        np.testing.assert_array_equal(X_kept[name], values[kept])
    np.testing.assert_array_equal(y_kept, y[kept])
