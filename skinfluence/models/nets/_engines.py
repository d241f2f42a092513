"""Derivatives of a net's raw outputs along a direction in its parameters: of five ways, one that is right.

Each engine is a function ``(net, theta, v, batch) -> (F, T)``: raw outputs ``(n, K)`` and their derivatives along
``v``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from sklearn import get_config
from torch.autograd import forward_ad
from torch.func import functional_call, jacrev, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._net import Net, Tensors, as_leaves
from ._rows import leaves_of, map_leaves
from ._rules import PLAIN_RULES, DualRules, Rules

_MOST_GRADIENTS = 64
_FEWEST_COMPILED = 8  # rows: the few that are probed are one size
_MOST_COMPILED = 4096

Engine = Callable[[Net, Tensors, Tensors, Any], tuple[torch.Tensor, torch.Tensor]]
Passes = Callable[[Any, slice], tuple[torch.Tensor, torch.Tensor | None]]
"""``(batch, its rows) -> (F, T)``, at some parameters and along some direction; a pass may have none, and no T."""


def forward(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward pass on dual numbers: about three times the products of a plain one, and no graph."""
    with torch.no_grad():  # not inference_mode: that one silently drops tangents
        return _on_duals(net, theta, v, batch)


@contextmanager
def _dual_numbers(net: Net, theta: Tensors, v: Tensors) -> Iterator[Callable[[Any], tuple[torch.Tensor, torch.Tensor]]]:
    """A function of a batch that makes a pass on dual numbers."""
    with torch_quiet(), forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(theta[name], v[name]) for name in theta}
        rules = DualRules({id(dual): (theta[name], v[name]) for name, dual in duals.items()})

        def of(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
            with rules:
                out = net.raw(duals, batch)
            F, T = forward_ad.unpack_dual(out)
            if T is None:
                raise RuntimeError("The outputs carry no tangent: as far as torch tells they depend on no parameter.")
            return F, T

        yield of


def _on_duals(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with _dual_numbers(net, theta, v) as of:
        return of(batch)


@contextmanager
def along(name: str, net: Net, theta: Tensors, v: Tensors) -> Iterator[Passes]:
    """An engine for one batch after the other: the parameters' dual numbers are made once for all."""
    if name not in GRAPHED:
        engine = engine_of(name)
        yield lambda batch, at: engine(net, theta, v, batch)
        return
    with written_out(net) if name == "forward_math" else nullcontext(), _dual_numbers(net, theta, v) as of:

        def plainly(batch: Any, at: slice) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                return of(batch)

        yield plainly


def forward_math(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with attention and recurrence written out: their fused kernels have no forward-mode derivative."""
    with written_out(net):
        return forward(net, theta, v, batch)


def forward_graph(net: Net, leaves: Tensors, v: Tensors, batch: Any, engine: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward`, or `forward_math`, with the graph of the outputs: what is pulled back from there needs no other pass.

    A product with the Gauss-Newton matrix is then five times the products of a plain pass instead of six.
    """
    with written_out(net) if engine == "forward_math" else nullcontext():
        return _on_duals(net, leaves, v, batch)


def compiled(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward mode as one function, compiled by `torch.compile`.

    Forward mode is compiled for one number of rows. Blocks are filled up to a power of two with their last row, so that
    a few functions serve all of them, those of later calls and of nets of the same make included.
    """
    if net.compiled is None:

        def both(theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
            # As torch's own function asks: its compiler knows that one.
            F, T = jvp(lambda part: net.flattened(functional_call(net.module, part, (batch,))), (theta,), (v,))
            return F, T

        net.compiled = torch.compile(both, dynamic=False, fullgraph=True)
    n = leaves_of(batch, len)[0]
    with torch.no_grad(), written_out(net, rules=False), _many_compiled():
        F, T = net.compiled(theta, v, _filled_up(batch, n, max(1 << (n - 1).bit_length(), _FEWEST_COMPILED)))
    return F[:n], T[:n]


def _filled_up(batch: Any, n: int, size: int) -> Any:
    def filled(part: torch.Tensor) -> torch.Tensor:
        return torch.cat([part, part[-1:].expand(size - n, *part.shape[1:])])

    return batch if n == size else map_leaves(batch, filled)


def _many_compiled() -> AbstractContextManager[None]:
    """As many compiled nets at once as one likes: torch keeps eight of a function, and has an error for the ninth."""
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # the name before torch 2.6
    patched: AbstractContextManager[None] = config.patch(
        {limit: _MOST_COMPILED, f"accumulated_{limit}": _MOST_COMPILED}
    )
    return patched


def double_backward(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two backward passes: ``u -> J^T u`` is linear in u, and its derivative along v is ``J v``."""
    with written_out(net), torch.enable_grad():
        leaves = as_leaves(theta)
        F = net.raw(leaves, batch)
        u = torch.zeros_like(F, requires_grad=True)
        pulled = torch.autograd.grad(F, list(leaves.values()), u, create_graph=True, allow_unused=True)
        pairs = [(g, v[name]) for name, g in zip(leaves, pulled, strict=True) if g is not None]
        along = torch.stack([(g * direction).sum() for g, direction in pairs]).sum()
        (T,) = torch.autograd.grad(along, u)
    return F.detach(), T.detach()


def per_row(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Jacobians of the rows by vmap, a few at a time."""
    with torch.no_grad():
        F = net.raw(theta, batch)
    parts = []
    for J in jacobians(net, theta, batch):
        flat = [J[name].reshape(*J[name].shape[:2], -1) @ v[name].reshape(-1) for name in theta]
        parts.append(torch.stack(flat).sum(dim=0))
    return F, torch.cat(parts)


def row_loop(net: Net, theta: Tensors, v: Tensors, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A backward pass for each output of each row: slow, and right wherever torch can differentiate at all."""
    outputs, tangents = [], []
    with torch.enable_grad():
        for i in range(batch_rows(batch)):
            leaves = as_leaves(theta)
            (F,) = net.raw(leaves, take_row(batch, i))
            T = torch.zeros_like(F)
            for k in range(len(F)):
                grads = torch.autograd.grad(F[k], list(leaves.values()), retain_graph=True, allow_unused=True)
                for name, g in zip(leaves, grads, strict=True):
                    if g is not None:
                        T[k] += (g * v[name]).sum()
            outputs.append(F.detach())
            tangents.append(T.detach())
    return torch.stack(outputs), torch.stack(tangents)


ENGINES: dict[str, Engine] = {
    "forward": forward,
    "forward_math": forward_math,
    "double_backward": double_backward,
    "per_row": per_row,
    "row_loop": row_loop,
}
"""In the order in which they are tried."""

GRAPHED = ("forward", "forward_math")
"""Those that `forward_graph` can stand in for."""


def engine_of(name: str) -> Engine:
    return compiled if name == "compiled" else ENGINES[name]


def jacobians(net: Net, theta: Tensors, batch: Any) -> Iterator[Tensors]:
    """Jacobians ``(b, K, *shape)`` of consecutive rows in every parameter, a few rows at a time."""

    def one(parameters: Tensors, row: Any) -> torch.Tensor:
        return net.raw(parameters, map_batch(row, lambda part: part.unsqueeze(0)))[0]

    several = vmap(jacrev(one), in_dims=(None, 0))
    step = rows_within(net.n_outputs * sum(tensor.nbytes for tensor in theta.values()))
    with written_out(net):
        for start in range(0, batch_rows(batch), step):
            yield several(theta, take_rows(batch, slice(start, start + step)))


def rows_within(row_bytes: int) -> int:
    """How many rows' gradients may be held at once: beyond some tens of them vmap gains nothing."""
    budget = get_config()["working_memory"] * 2**20 / 4
    return int(min(max(budget // max(row_bytes, 1), 1), _MOST_GRADIENTS))


@contextmanager
def torch_quiet() -> Iterator[None]:
    """Without what torch warns of by itself when its derivatives are asked for, none of it the user's doing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        yield


@contextmanager
def written_out(net: Net, *, rules: bool = True) -> Iterator[None]:
    """Attention and recurrence as plain products, which have every derivative; torch's fused kernels do not."""
    if net.is_written_out:  # by this thread: whoever asks the net has its lock
        with Rules(PLAIN_RULES) if rules else nullcontext():
            yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch_quiet(), ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if net.recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            if rules:
                stack.enter_context(Rules(PLAIN_RULES))
            net.is_written_out = True
            yield
    finally:
        net.is_written_out = False
        torch.backends.mha.set_fastpath_enabled(fast)


# --- batches: a tensor, or a dict, tuple or list of them --------------------------------------------------------------


def batch_rows(batch: Any) -> int:
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return int(batch.shape[0])


def take_row(batch: Any, i: int) -> Any:
    return take_rows(batch, slice(i, i + 1))


def take_rows(batch: Any, rows: slice) -> Any:
    return map_batch(batch, lambda part: part[rows])


def map_batch(batch: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(batch, dict):
        return {name: map_batch(part, function) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_batch(part, function) for part in batch)
    return function(batch)
