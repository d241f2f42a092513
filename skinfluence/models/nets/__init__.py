"""Torch nets: skorch's, scikit-learn's MLPs, and bare modules with a loss. Imported when one is met, never before."""

from __future__ import annotations

from ._builders import NetOptions, from_mlp, from_module, from_skorch

__all__ = ["NetOptions", "from_mlp", "from_module", "from_skorch"]
