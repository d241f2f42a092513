"""Parameters out of torch's state dicts and their files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ._net import Net


def state_vector(net: Net, state: Mapping[str, Any] | str | os.PathLike[str]) -> np.ndarray:
    """The net's chosen parameters ``(p,)`` out of a state dict, or of a file that one was saved to.

    Files are read with ``weights_only=True``: no code in them is run. Buffers (running statistics) are left where they
    are.
    """
    if not isinstance(state, Mapping):
        try:
            state = torch.load(state, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{state!r} is no state dict that can be read with weights_only=True: {error}") from error
        if not isinstance(state, Mapping):
            raise ValueError(f"The file must hold a state dict, got {type(state).__name__}.")
    parts = {}
    for name, like in net.theta.items():
        own = name.removeprefix("inner.")
        if own not in state:
            raise ValueError(f"The state dict has no {own!r}; it has {list(state)[:5]} and so on.")
        tensor = torch.as_tensor(state[own])
        if tensor.shape != like.shape:
            raise ValueError(f"{own!r} must have shape {tuple(like.shape)}, got {tuple(tensor.shape)}.")
        parts[name] = tensor
    return net.flat(parts)
