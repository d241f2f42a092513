"""How torch says that memory has run out."""

from __future__ import annotations

import torch

# In a plain RuntimeError: for a processor's memory on Linux and macOS, and on Windows; for Apple's GPU, and where the
# CUDA driver finds it out before torch does.
_SAID = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether fewer rows at once may do what failed."""
    known = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    return isinstance(error, (known, MemoryError)) or any(said in str(error) for said in _SAID)
