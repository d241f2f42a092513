"""A net's copy is what `copy.deepcopy` makes of it: nothing shared with the user's, and within it what was shared."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence.models.nets._copies import copied  # noqa: E402


class Shared(nn.Module):
    """Parameters, modules and attributes that are in several places, and one that leads back."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4, padding_idx=0)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.twice = nn.ModuleList([self.head, self.head])
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.alias = self.scale
        self.settings = {"widths": [4, 5], "by name": OrderedDict(head=self.head)}
        self.by_tensor = {self.scale: 1}
        self.above = (self,)
        self.kept = []
        self.head.register_forward_hook(self.keep)

    def keep(self, module, args, out):
        self.kept.append(out.detach())

    def forward(self, x):
        return self.head(self.embed(x) * self.scale)


def test_what_is_shared_within_is_shared_in_the_copy():
    net = Shared()
    made = copied(net)
    assert made.head.weight is made.embed.weight is not net.embed.weight
    assert made.twice[0] is made.twice[1] is made.head is made.settings["by name"]["head"]
    assert made.alias is made.scale is not net.scale
    assert list(made.by_tensor) == [made.scale]
    assert made.above[0] is made
    assert type(made.settings["by name"]) is OrderedDict
    assert made.settings["widths"] == [4, 5]
    assert made.settings["widths"] is not net.settings["widths"]
    assert list(made.state_dict()) == list(net.state_dict())


def test_hooks_are_those_of_the_copy():
    net = Shared()
    made = copied(net)
    made(torch.tensor([1, 2]))
    assert len(made.kept) == 1
    assert not net.kept


def test_nothing_is_shared_with_the_users_own():
    net = Shared().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    made = copied(net)
    assert not any(p.requires_grad for p in made.parameters())
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.add_(1)
    made.train(False).settings["more"] = 1
    made.register_buffer("another", torch.ones(1))
    assert net.training
    assert "more" not in net.settings
    assert not hasattr(net, "another")
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


class Counted(nn.Module):
    """Copies itself in its own way."""

    def __init__(self):
        super().__init__()
        self.inner, self.copies = nn.Linear(2, 1), 0

    def __deepcopy__(self, memo):
        made = Counted()
        memo[id(self)] = made
        made.inner, made.copies = copy.deepcopy(self.inner, memo), self.copies + 1
        return made


class Reduced(nn.Module):
    """Leaves out of its state what it makes anew."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 1)
        self.step = (n for n in range(3))  # which nothing can copy

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "step"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.step = (n for n in range(3))


def test_modules_that_know_how_they_are_copied_are_asked():
    made = copied(nn.Sequential(Counted(), Reduced()))
    assert made[0].copies == 1
    assert next(made[1].step) == 0
    made = copied(nn.ModuleDict({"rnn": nn.LSTM(2, 3), "attention": nn.MultiheadAttention(4, 2)}))
    assert made["rnn"](torch.zeros(1, 2))[0].shape == (1, 3)
    assert made["rnn"]._flat_weights[0] is made["rnn"].weight_ih_l0
