"""`DifferentiableNet(compile=True)`: the scores are those of forward mode, however many nets and sizes are met."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import influence_scores  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

pytestmark = [
    pytest.mark.slow,  # torch's compiler takes seconds to import
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own, of its compiler
]
CE = nn.CrossEntropyLoss


@pytest.fixture
def traced(monkeypatch):
    """The compiler without the making of machine code, which takes most of its time; the sizes that it met."""
    met, whole = [], torch.compile

    def backend(graph, inputs):
        met.append([tuple(part.shape) for part in inputs])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, **options | {"backend": backend}))
    torch._dynamo.reset()
    yield met
    torch._dynamo.reset()


def net(width=5):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def drawn(rng, n):
    return rng.standard_normal((n, 4)).astype(np.float32), rng.randint(3, size=n)


def both(module, rows, **options):
    plain, compiled = (
        influence_scores(DifferentiableNet((module, CE()), compile=way, **options), *rows) for way in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-6 * np.abs(plain).max())


def test_more_nets_than_torch_keeps(rng, traced):
    # Torch keeps eight compiled forms of a function, and where all of it must be compiled the ninth is an error.
    rows = drawn(rng, 20)
    for width in range(2, 12):
        both(net(width), rows)


def test_few_sizes_are_compiled(rng, traced):
    module = net()
    for n in (9, 10, 13, 16):
        both(module, drawn(rng, n))
    # Eight rows, of the probe, and sixteen: neither each n nor each net of the same make is compiled anew.
    assert len(traced) == 2
    both(net(), drawn(rng, 12))
    assert len(traced) == 2


def test_blocks_and_a_rest(rng, traced):
    both(net(), drawn(rng, 37), block_rows=16)


def test_rows_in_parts(rng, traced):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), nn.Linear(6, 3)

        def forward(self, words, numbers):
            return self.head(torch.cat([self.words(words).mean(dim=1), numbers], dim=1))

    torch.manual_seed(0)
    X = {"words": rng.randint(7, size=(11, 3)), "numbers": rng.standard_normal((11, 2)).astype(np.float32)}
    both(Two(), (X, rng.randint(3, size=11)))


def test_a_net_that_cannot_be_compiled_is_refused(rng, traced):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            torch._dynamo.graph_break()
            return self.layer(x)

    with pytest.raises(TypeError, match=r"cannot be differentiated by 'compiled'.*Leave compile=True out"):
        influence_scores(DifferentiableNet((Breaks(), CE()), compile=True), *drawn(rng, 8))


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch compiles with a C++ compiler")
def test_machine_code(rng):
    both(net(), drawn(rng, 20))
