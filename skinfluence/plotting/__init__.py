"""Displays: arrays in, axes out. matplotlib is imported when something is drawn, and not before.

As in scikit-learn, ``from_estimator`` and its kin compute, ``__init__`` stores arrays, and ``plot`` draws them.
"""

from ._comparison import MethodComparisonDisplay
from ._frontier import FrontierDisplay
from ._influence import InfluenceDisplay
from ._removal import RemovalCurveDisplay
from ._rows import most_harmful

__all__ = [
    "FrontierDisplay",
    "InfluenceDisplay",
    "MethodComparisonDisplay",
    "RemovalCurveDisplay",
    "most_harmful",
]
