"""A module's copy, so that what is done with it can never reach the user's own."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

_ATOMS = (int, float, complex, bool, str, bytes, type(None))


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, whose parameters have the names that the user knows."""
    original: nn.Module = getattr(module, "_orig_mod", module)
    return original


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, to be asked for derivatives."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise TypeError(
            f"{type(module).__name__} was made by torch.jit, and has no Python code to take derivatives of. Give the "
            "module that it was made of."
        )
    try:
        made: nn.Module = _copy(module, _detached_leftovers(module))
    except Exception as error:  # deepcopy raises what the parts of a user's module raise
        raise TypeError(
            f"{type(module).__name__} cannot be copied ({error}), and influence is taken on a copy so that the net "
            "stays as it is. Keep no tensors with a gradient history in its attributes."
        ) from error
    for part in made.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            # What an optimiser is handed, sparse or divided by how often a word occurs, is not the derivative.
            part.sparse = part.scale_grad_by_freq = False
    return made


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy`, which for a module takes ten times as long, most of it for a score of empty dicts."""
    if type(value) in _ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if type(value) in (dict, OrderedDict) and all(type(key) in _ATOMS for key in value):
        made = memo[id(value)] = type(value)()
        for key, part in value.items():
            made[key] = _copy(part, memo)
        return made
    if not (isinstance(value, nn.Module) and _is_plain(type(value))):
        return copy.deepcopy(value, memo)
    made = memo[id(value)] = object.__new__(type(value))
    made.__setstate__({name: _copy(part, memo) for name, part in value.__getstate__().items()})
    return made


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether a class of modules leaves the way that its instances are copied to Python: attribute by attribute."""
    own = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__slots__")
    others = [base for base in kind.__mro__ if base not in (nn.Module, object)]
    return kind not in copyreg.dispatch_table and not any(name in vars(base) for base in others for name in own)


def _detached_leftovers(module: nn.Module) -> dict[int, Any]:
    """What stands in a copy for tensors that were computed and kept in attributes, which torch does not copy."""
    return {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
