"""What a user may do wrong with a net, and what is said of it; nets that look wrong and are not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")
from torch import nn  # noqa: E402

from skinfluence import InfluenceSelector, influence_scores  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .cases import Cube, Custom, Item, cnn_batch_norm  # noqa: E402

N = 12
CE = nn.CrossEntropyLoss


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def rows(rng):
    return rng.standard_normal((N, 4)).astype(np.float32), rng.randint(3, size=N)


def skorch_net(module=mlp, **options):
    return skorch.NeuralNetClassifier(module, criterion=CE, max_epochs=1, train_split=None, verbose=0, **options)


# --- options ----------------------------------------------------------------------------------------------------------

OPTIONS = [
    ({"curvature": "fisher"}, ValueError, "curvature must be 'gauss_newton' or 'hessian', got 'fisher'"),
    ({"dtype": "int8"}, ValueError, "dtype must be None or one of .*'bfloat16'.*got 'int8'"),
    ({"dtype": torch.float32}, ValueError, "dtype must be None or one of"),
    ({"engine": "vmap"}, ValueError, "engine must be 'auto' or one of .*'forward'.*got 'vmap'"),
    ({"engine": "row_loop", "compile": True}, ValueError, "compile=True compiles is forward mode.*'row_loop'"),
    ({"weight_decay": "none"}, ValueError, "weight_decay must be 'optimizer' or a number, got 'none'"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay == -1.0, must be >= 0"),
    ({"weight_decay": None}, TypeError, "weight_decay must be an instance of"),
    ({"block_rows": 0}, ValueError, "block_rows == 0, must be >= 1"),
    ({"block_rows": 2.5}, TypeError, "block_rows must be an instance of"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options_that_are_none(options, error, message, rows):
    asked = DifferentiableNet((mlp(), CE()), **options)
    with pytest.raises(error, match=message):
        influence_scores(asked, *rows)


# --- what is no net ---------------------------------------------------------------------------------------------------


def test_a_net_must_be_fitted(rows):
    for net in (skorch_net(), DifferentiableNet(skorch_net()), MLPClassifier(), DifferentiableNet(MLPClassifier())):
        with pytest.raises(NotFittedError, match=r"not fitted|not initialized"):
            influence_scores(net, *rows)
    # Initialised is as good as fitted: its weights may have been loaded.
    ready = skorch_net(classes=[0, 1, 2]).initialize()
    assert np.isfinite(influence_scores(ready, *rows)).all()


def test_a_bare_net_is_a_module_and_a_loss(rows):
    with pytest.raises(
        TypeError, match=r"pair \(module, loss\) with loss\(output, target\) -> tensor; the loss is None"
    ):
        influence_scores((mlp(), None), *rows)
    with pytest.raises(TypeError, match=r"got Sequential.*a tuple \(torch module, loss\)"):
        influence_scores(mlp(), *rows)
    with pytest.raises(TypeError, match="got tuple"):
        influence_scores((mlp(), CE(), 3), *rows)
    with pytest.raises(TypeError, match="got tuple"):
        influence_scores((CE(), "loss", mlp()), *rows)


def test_a_bare_net_cannot_be_refitted(rows):
    with pytest.raises(TypeError, match=r"bare \(module, loss\) cannot be fitted here: train it"):
        DifferentiableNet((mlp(), CE())).fit(*rows)
    for bare in ((mlp(), CE()), DifferentiableNet((mlp(), CE())), make_pipeline(DifferentiableNet((mlp(), CE())))):
        with pytest.raises(
            TypeError, match=r"bare \(module, loss\) cannot be fitted\. Wrap the module in a skorch net"
        ):
            InfluenceSelector(bare).fit(*rows)


def test_methods_that_refit_say_that_a_bare_net_is_none_to_refit(rows):
    with pytest.raises(TypeError, match=r"refit|fitted"):
        influence_scores((mlp(), CE()), *rows, method="leave_one_out")


# --- modules ----------------------------------------------------------------------------------------------------------


class Gives(nn.Module):
    """Does something to what a small net gives."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.function = mlp(), function

    def forward(self, x):
        return self.function(self.inner(x))


class Leaves(nn.Module):
    """Keeps what it computed, gradients and all."""

    def __init__(self):
        super().__init__()
        self.inner, self.kept = mlp(), None

    def forward(self, x):
        self.kept = [self.inner(x)]  # in a list, where copying finds no way around it
        return self.kept[0]


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        return self.head(x)


class MeanOverBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x - x.mean(dim=0))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(self.w.dtype) @ self.w).abs()


def noise(F):
    return F + torch.randn_like(F)


def branch(F):
    """Another way for large blocks than for single rows."""
    return F * 2 if len(F) > 1 else F


MODULES = {
    "no_tensor": (
        lambda: Gives(lambda F: "positive"),
        TypeError,
        "must return a tensor, or a tuple.*str",
    ),
    "none": (lambda: Gives(lambda F: None), TypeError, "must return a tensor.*got NoneType"),
    "nested": (lambda: Gives(lambda F: (F, [F])), TypeError, "must return a tensor.*got tuple"),
    "one_for_all": (lambda: Gives(lambda F: F.mean(dim=0, keepdim=True)), TypeError, "2 rows went in, 1 came out"),
    "scalar": (lambda: Gives(torch.sum), TypeError, "one output a row, got a single number"),
    "random": (lambda: Gives(noise), TypeError, "other outputs each time.*Draw only where self.training is True"),
    "branch": (lambda: Gives(branch), TypeError, "other outputs alone than together with others"),
    "centred": (MeanOverBatch, TypeError, "other outputs alone than together with others"),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)),
        TypeError,
        r"BatchNorm with track_running_stats=False",
    ),
    "instance_norm_of_a_batch": (lambda: Gives(lambda F: F / F.norm()), TypeError, "other outputs alone"),
    "lazy": (Lazy, ValueError, r"'head.weight' has no values yet: run the lazy module once"),
    "complex": (Complex, TypeError, r"one real floating dtype, got \['torch.complex64'\]"),
    "no_parameters": (nn.Tanh, ValueError, "no parameter with requires_grad=True"),
    "integers": (
        lambda: Gives(lambda F: F.argmax(dim=1)),
        TypeError,
        "puts out numbers of int64",
    ),
    "detached": (lambda: Gives(torch.Tensor.detach), TypeError, "depend on none of the parameters.*detach"),
    "complex_outputs": (lambda: Gives(lambda F: F + 1j), TypeError, "puts out numbers of complex64"),
    "nan": (lambda: Gives(lambda F: F * float("nan")), ValueError, "raw outputs are not finite"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_cannot_be_scored(name, rows):
    make, error, message = MODULES[name]
    torch.manual_seed(0)
    with pytest.raises(error, match=f"(?s){message}"):
        influence_scores((make(), CE()), *rows)


def test_a_module_that_cannot_be_copied(rows):
    net = Leaves()
    net(torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"Leaves cannot be copied.*Keep no tensors with a gradient history"):
        influence_scores((net, CE()), *rows)


def test_an_engine_that_is_asked_for_and_wrong(rows):
    torch.manual_seed(0)
    with pytest.raises(TypeError, match=r"Custom cannot be differentiated by 'forward' \(.*Leave engine at 'auto'"):
        influence_scores(DifferentiableNet((Custom(Cube), CE()), engine="forward"), rows[0], rows[1] % 2)


def test_methods_that_need_what_the_rows_are_not(rows):
    X, y = {"input": rows[0]}, rows[1]
    with pytest.raises(TypeError, match="needs them in one array, got dict"):
        influence_scores((mlp(), CE()), X, y, method="knn_shapley")


# --- losses -----------------------------------------------------------------------------------------------------------


def longer(out, y):
    return torch.cat([nn.functional.cross_entropy(out, y, reduction="none"), out[:1, 0]])


class Scalar(nn.Module):
    """Says that it does not reduce, and does."""

    reduction = "none"

    def forward(self, out, y):
        return (out.sum(dim=1) ** 2).mean() ** 0.5


@pytest.mark.parametrize("loss", [longer, Scalar()], ids=["longer", "scalar"])
def test_a_row_loss_of_another_shape(loss, rows):
    with pytest.raises(TypeError, match="no sum or mean of one term a row"):
        influence_scores((mlp(), loss), *rows)


def test_a_loss_that_raises_is_quoted(rows):
    def broken(out, y):
        raise RuntimeError("the criterion wants six columns")

    with pytest.raises(TypeError, match="RuntimeError: the criterion wants six columns"):
        influence_scores((mlp(), broken), *rows)


# --- what looks wrong and is not --------------------------------------------------------------------------------------


def test_gradients_may_be_switched_off_around_the_call(rows):
    pair = (mlp(), CE())
    methods = ("ip", "self_tracin", "exact", "datainf")
    wanted = [influence_scores(pair, *rows, method=method) for method in methods]
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = [influence_scores(pair, *rows, method=method) for method in methods]
        np.testing.assert_array_equal(found, wanted)


def test_tensors_made_in_inference_mode(rows):
    X, y = rows
    wanted = influence_scores((mlp(), CE()), X, y)
    with torch.inference_mode():
        X, module = torch.from_numpy(X) * 1, mlp()
    np.testing.assert_allclose(influence_scores((mlp(), CE()), X, y), wanted, rtol=1e-6)
    # Its parameters are inference tensors, which have no gradients: they cannot be trained, but they are there.
    np.testing.assert_allclose(influence_scores((module, CE()), X, y), wanted, rtol=1e-6)


def test_a_module_with_hooks_keeps_them_quiet(rows):
    net, seen = mlp(), []
    wanted = influence_scores((net, CE()), *rows)
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(1))
    np.testing.assert_array_equal(influence_scores((net, CE()), *rows), wanted)


@pytest.mark.slow  # torch's compiler takes seconds to import
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of its compiler
def test_a_compiled_module_is_taken_apart(rows):
    net = mlp()
    wanted = influence_scores((net, CE()), *rows)
    compiled = torch.compile(net, backend="eager")
    np.testing.assert_array_equal(influence_scores((compiled, CE()), *rows), wanted)
    asked = DifferentiableNet((compiled, CE()), parameters=["2.weight", "2.bias"])
    head = DifferentiableNet((net, CE()), parameters="last_layer")
    np.testing.assert_array_equal(influence_scores(asked, *rows), influence_scores(head, *rows))
    ready = skorch_net(classes=[0, 1, 2], optimizer__weight_decay=0.1).initialize()
    wanted = influence_scores(ready, *rows, method="exact")
    ready.module_ = torch.compile(ready.module_, backend="eager")
    np.testing.assert_array_equal(influence_scores(ready, *rows, method="exact"), wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of the call that makes one
def test_a_scripted_module(rows):
    for module in (torch.jit.script(mlp()), nn.Sequential(torch.jit.script(mlp()))):
        with pytest.raises(TypeError, match=r"was made by torch\.jit.*Give the module that it was made of"):
            influence_scores((module, CE()), *rows)


def test_numbers_that_leave_torch_are_constants(rows):
    """`.item()` cuts a gradient in training too: what is scored is what is trained."""
    torch.manual_seed(0)
    X, y = rows[0], rows[1] % 2
    assert np.isfinite(influence_scores((Item(), CE()), X, y)).all()


def test_a_net_that_was_left_in_training_mode_is_not_touched(rng):
    net = cnn_batch_norm().train()
    X, y = rng.standard_normal((N, 2, 6, 6)).astype(np.float32), rng.randint(3, size=N)
    before = copy.deepcopy(net.state_dict())
    influence_scores((net, CE()), X, y)
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
