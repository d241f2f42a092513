"""A net as a function of chosen parameters: a frozen copy of the user's module, in evaluation mode."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._seeds import TORCH_LOCK
from ._copies import copied, uncompiled
from ._precision import full_precision

Tensors = dict[str, torch.Tensor]


def as_leaves(theta: Tensors) -> Tensors:
    """Parameters to take derivatives in: each a leaf of its own, whatever the tensors are views of.

    A module that writes to a parameter in place, as an Embedding with ``max_norm`` does, would otherwise cut all of the
    views off.
    """
    return {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}


class Net:
    """A module's raw outputs as a function of some of its parameters.

    The module is copied once, so that nothing done here (evaluation mode, gradients, compiling) can reach the user's
    own; a lock keeps threads apart, because torch puts parameters into a module by swapping them.

    Parameters
    ----------
    module : torch.nn.Module
    parameters : "all", "last_layer", str, list of str or callable
        The parameters that gradients are taken in; see `skinfluence.nets.DifferentiableNet`.
    call : callable, default=None
        ``call(module, batch)``: how the module is asked; ``module(batch)`` if None.
    to_raw : callable, default=None
        Applied to the output, to make raw outputs of probabilities.
    dtype : torch.dtype or None
        Floating dtype that the copy is moved to; None leaves it.
    cast_inputs : bool
        Whether floating inputs are brought to the module's own dtype.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Any = "all",
        *,
        call: Callable[[nn.Module, Any], Any] | None = None,
        to_raw: Callable[[torch.Tensor], torch.Tensor] | None = None,
        dtype: torch.dtype | None = None,
        cast_inputs: bool = False,
    ) -> None:
        module = uncompiled(module)
        names = choose(module, parameters)
        with torch.inference_mode(False):  # what is made within inference mode has no gradients for ever
            module = copied(module)
            if dtype is not None:
                module = module.to(dtype)
            module.eval().requires_grad_(False)
            self.module = Asked(module, call, to_raw)
        owned = dict(module.named_parameters())
        self.theta: Tensors = {f"inner.{name}": owned[name].detach() for name in names}
        self.homes = _homes(self.module, {id(owned[name]): f"inner.{name}" for name in names})
        first = next(iter(self.theta.values()))
        self.device, self.dtype = first.device, first.dtype
        self.cast = self.dtype if cast_inputs or dtype is not None else None
        sizes = [tensor.numel() for tensor in self.theta.values()]
        starts = accumulate(sizes, initial=0)
        self.offsets: dict[str, int] = dict(zip(self.theta, starts, strict=False))  # the last is where they end
        self.n_params = sum(sizes)
        self.name = type(module).__name__
        self.recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
        self.structure: Structure | None = None
        self.compiled: Any = None
        self.is_still = self.is_written_out = False

    @property
    def numpy_dtype(self) -> np.dtype:
        """What outputs become outside of torch: NumPy has no bfloat16, and little use for float16."""
        return np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)

    def raw(self, theta: Tensors, batch: Any) -> torch.Tensor:
        """Raw outputs ``(n, K)`` at parameters ``theta`` (by name, a subset of the module's)."""
        return self.flattened(self.ask(theta, batch))

    def ask(self, theta: Tensors, batch: Any) -> Any:
        """What the module itself gives.

        Done by hand what `torch.func.functional_call` does, which looks for the parameters' places anew in every call:
        that takes longer than a small net.
        """
        before = [(owner, own, owner[own]) for name in theta for owner, own in self.homes[name]]
        try:
            for name, tensor in theta.items():
                for owner, own in self.homes[name]:
                    owner[own] = tensor
            return self.module(batch)
        finally:
            for owner, own, tensor in before:
                owner[own] = tensor

    def flattened(self, out: Any) -> torch.Tensor:
        if self.structure is None:
            self.structure = Structure.of(out)
        return self.structure.flat(out)

    @contextmanager
    def still(self, *, exact: bool = False) -> Iterator[None]:
        """The lock held, and the random numbers of torch and NumPy, which a module may draw, put back afterwards.

        Inference mode is off, in which torch takes no derivatives; and on CUDA the fused recurrence, which has no
        backward pass in evaluation mode. ``exact`` is for what is compared: see `full_precision`. Within another
        `still` of the same net nothing else is left to do: reading the random numbers and putting them back costs as
        much as a few rows of a small net.
        """
        rounding = full_precision() if exact else nullcontext()
        with TORCH_LOCK:
            if self.is_still:  # by this thread, which has the lock
                with rounding:
                    yield
                return
        devices = [self.device] if self.device.type == "cuda" else []
        plain = self.recurrent and self.device.type == "cuda"
        kernels = torch.backends.cudnn.flags(enabled=False) if plain else nullcontext()
        with TORCH_LOCK, torch.inference_mode(False), torch.random.fork_rng(devices=devices), kernels, rounding:
            drawn = np.random.get_state()  # noqa: NPY002 - it is the global state that a module may draw from
            self.is_still = True
            try:
                yield
            finally:
                self.is_still = False
                np.random.set_state(drawn)  # noqa: NPY002 - as above

    @property
    def n_outputs(self) -> int:
        """K; known once the module was asked."""
        return 0 if self.structure is None else sum(self.structure.widths)

    # --- flat vectors -------------------------------------------------------------------------------------------------

    def blocks(self) -> dict[str, slice]:
        """Slices of the flat vector, one for each module that owns parameters."""
        found: dict[str, slice] = {}
        start = 0
        for name, tensor in self.theta.items():
            layer = name.removeprefix("inner.").rpartition(".")[0] or "module"
            stop = start + tensor.numel()
            if layer in found and found[layer].stop == start:
                found[layer] = slice(found[layer].start, stop)
            else:
                found[layer if layer not in found else name.removeprefix("inner.")] = slice(start, stop)
            start = stop
        return found

    def flat(self, tensors: Mapping[str, torch.Tensor | None]) -> np.ndarray:
        """A float64 vector ``(p,)``; missing tensors are zero."""
        out = np.zeros(self.n_params)
        for name, tensor in tensors.items():
            if tensor is not None:
                start = self.offsets[name]
                out[start : start + tensor.numel()] = tensor.detach().cpu().double().reshape(-1).numpy()
        return out

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """An array in the net's dtype and on its device, copied."""
        with torch.inference_mode(False):
            return torch.tensor(values, dtype=self.dtype).to(self.device)

    def unflat(self, vector: np.ndarray) -> Tensors:
        """The parts of a flat vector, by name, in the net's dtype and on its device."""
        return self.parts(self.tensor(np.asarray(vector)))

    def parts(self, whole: torch.Tensor) -> Tensors:
        """The same of a tensor, as views."""
        shapes = ((name, like.shape, self.offsets[name]) for name, like in self.theta.items())
        with torch.inference_mode(False):
            return {name: whole[start : start + shape.numel()].view(shape) for name, shape, start in shapes}

    def padding(self) -> np.ndarray:
        """Marks ``(p,)`` of the rows of embeddings that stand for padding and never learn.

        Where another module shares the matrix (tied embeddings), its gradient reaches them, and they do.
        """
        marks: Tensors = {}
        kinds = nn.Embedding, nn.EmbeddingBag
        for path, module in self.module.named_modules():
            index = getattr(module, "padding_idx", None) if isinstance(module, kinds) else None
            name = f"{path}.weight"
            if name in self.theta and isinstance(index, int) and self._owners[id(module.weight)] == 1:
                marks[name] = torch.zeros_like(self.theta[name])
                marks[name][index] = 1
        return self.flat(marks).astype(bool)

    @cached_property
    def _owners(self) -> Counter[int]:
        """In how many places each parameter is, by its id."""
        return Counter(id(tensor) for _, tensor in self.module.named_parameters(remove_duplicate=False))


def _homes(module: nn.Module, names: dict[int, str]) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where in a module each of the parameters lies, which are named by their ids: several places, if it is shared."""
    homes: dict[str, list[tuple[dict[str, Any], str]]] = {name: [] for name in names.values()}
    for part in module.modules():
        for own, tensor in part._parameters.items():
            if id(tensor) in names:
                homes[names[id(tensor)]].append((part._parameters, own))
    return homes


class Asked(nn.Module):
    """The module as it is asked: its call and what is done to its output are a part of one module."""

    def __init__(self, inner: nn.Module, call: Any, to_raw: Any) -> None:
        super().__init__()
        self.inner = inner
        self.call, self.to_raw = call, to_raw
        self.eval()

    def forward(self, batch: Any) -> Any:
        out = self.inner(batch) if self.call is None else self.call(self.inner, batch)
        return out if self.to_raw is None else self.to_raw(out)


class Structure:
    """How a module's output, a tensor or a tuple, list or dict of tensors, lies in the columns of the raw outputs."""

    def __init__(self, kind: type | None, names: list[Any], shapes: list[torch.Size]) -> None:
        self.kind, self.names, self.shapes = kind, names, shapes

    @classmethod
    def of(cls, out: Any) -> Structure:
        if isinstance(out, torch.Tensor):
            if out.dim() == 0:
                raise TypeError("A net must return one output a row, got a single number for all rows.")
            return cls(None, [0], [out.shape[1:]])
        items = (
            dict(out) if isinstance(out, Mapping) else dict(enumerate(out)) if isinstance(out, (tuple, list)) else {}
        )
        if not items or not all(isinstance(part, torch.Tensor) for part in items.values()):
            raise TypeError(
                f"A net must return a tensor, or a tuple, list or dict of tensors, got {type(out).__name__}. Wrap it "
                "in a module that returns what the loss needs."
            )
        kind = dict if isinstance(out, Mapping) else type(out)
        return cls(kind, list(items), [part.shape[1:] for part in items.values()])

    @property
    def single(self) -> bool:
        return self.kind is None

    @property
    def widths(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def flat(self, out: Any) -> torch.Tensor:
        if self.kind is None:
            return out.reshape(out.shape[0], -1)
        return torch.cat([out[name].reshape(out[name].shape[0], -1) for name in self.names], dim=1)

    def unflat(self, F: torch.Tensor) -> Any:
        if self.kind is None:
            return F.reshape(F.shape[0], *self.shapes[0])
        parts = [
            part.reshape(F.shape[0], *shape)
            for part, shape in zip(F.split(self.widths, dim=1), self.shapes, strict=True)
        ]
        return dict(zip(self.names, parts, strict=True)) if self.kind is dict else tuple(parts)


def choose(module: nn.Module, parameters: Any) -> list[str]:
    """Names of the chosen parameters, in the module's order, shared ones once."""
    every = dict(module.named_parameters())
    for name, tensor in every.items():
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise ValueError(f"Parameter {name!r} has no values yet: run the lazy module once, or fit it.")
    free = {name: tensor for name, tensor in every.items() if tensor.requires_grad}
    if not free:
        raise ValueError(f"{type(module).__name__} has no parameter with requires_grad=True to take influence through.")
    chosen = _matching(module, free, every, parameters)
    kinds = {free[name].dtype for name in chosen}
    if any(not kind.is_floating_point for kind in kinds) or len(kinds) > 1:
        raise TypeError(
            f"Parameters must be of one real floating dtype, got {sorted(map(str, kinds))}. Choose some of them by "
            "parameters=..., or bring the module to one dtype."
        )
    if len({free[name].device for name in chosen}) > 1:
        raise TypeError("Parameters must be on one device. Choose those on one by parameters=....")
    return chosen


def _matching(module: nn.Module, free: Mapping[str, Any], every: Mapping[str, Any], parameters: Any) -> list[str]:
    if isinstance(parameters, str) and parameters == "all":
        return list(free)
    names = _names(module, every)
    if isinstance(parameters, str) and parameters == "last_layer":
        return _last_layer(module, free, names)
    if isinstance(parameters, str):
        try:
            pattern = re.compile(parameters)
        except re.error as error:
            raise ValueError(f"parameters={parameters!r} is no regular expression: {error}.") from error
        chosen = [name for name in free if any(pattern.search(other) for other in names[name])]
    elif callable(parameters):
        chosen = [name for name, tensor in free.items() if any(parameters(other, tensor) for other in names[name])]
    elif isinstance(parameters, (list, tuple)) and all(isinstance(name, str) for name in parameters):
        movable = {other for name in free for other in names[name]}
        for name in parameters:
            if name not in movable:
                known = any(name in others for others in names.values())
                why = "is frozen (requires_grad=False)" if known else "is none of its parameters"
                raise ValueError(f"parameters names {name!r}, which {why}. Those that can move are {list(free)}.")
        chosen = [name for name in free if not names[name].isdisjoint(parameters)]
    else:
        raise TypeError(
            "parameters must be 'all', 'last_layer', a regular expression, a list of names or a callable(name, "
            f"tensor) -> bool, got {parameters!r}."
        )
    if not chosen:
        raise ValueError(f"parameters={parameters!r} chooses none of {list(free)}.")
    return chosen


def _names(module: nn.Module, every: Mapping[str, Any]) -> dict[str, set[str]]:
    """All names of each parameter, under its first: one that modules share has a name in each of them."""
    first = {id(tensor): name for name, tensor in every.items()}
    names: dict[str, set[str]] = {name: set() for name in every}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        names[first[id(tensor)]].add(name)
    return names


def _last_layer(module: nn.Module, free: Mapping[str, Any], names: Mapping[str, set[str]]) -> list[str]:
    """The parameters of the last of the modules, in the order they were registered, that has some of its own.

    Whether another module has them too makes no difference: the weights of a head that is tied to an embedding are its
    own.
    """
    owners = [
        {f"{path}.{own}" if path else own for own, _ in part.named_parameters(recurse=False)}
        for path, part in module.named_modules(remove_duplicate=False)
    ]
    chosen = ([name for name in free if not names[name].isdisjoint(owned)] for owned in reversed(owners))
    return next(found for found in chosen if found)
