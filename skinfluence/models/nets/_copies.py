"""A module's copy, so that what is done with it can never reach the user's own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


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
        made: nn.Module = copy.deepcopy(module, _detached_leftovers(module))
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


def _detached_leftovers(module: nn.Module) -> dict[int, Any]:
    """What stands in a copy for tensors that were computed and kept in attributes, which torch does not copy."""
    return {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }


def twin_of(estimator: Any) -> Any:
    """A skorch net with the module and attributes of another, whose `get_loss` may note things down where the other
    does not see them: in its history's last entry, and in lists, dictionaries and sets of its own.
    """
    # Not copy.copy: skorch's nets copy themselves by pickling, weights and all.
    twin = object.__new__(type(estimator))
    for name, value in vars(estimator).items():
        twin.__dict__[name] = copy.copy(value) if isinstance(value, (list, dict, set)) else value
    history = twin.__dict__.get("history_")
    if history:
        history[-1] = copy.deepcopy(history[-1])
    return twin


def is_changed(module: nn.Module) -> bool:
    """Whether it may do something else than its class: it has hooks, or a ``forward`` of its own."""
    return "forward" in vars(module) or any(value for name, value in vars(module).items() if name.endswith("_hooks"))
