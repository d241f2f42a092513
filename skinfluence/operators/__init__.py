"""The training objective of a fitted estimator, and its derivatives as operators over blocks of rows."""

from ._problem import Reduction, TrainingProblem, pull_back
from ._rows import Rows, are_finite, check_weights, require_finite, unwarned_floats
from ._sent import Directions, outputs_by_block
from ._stationary import warn_unless_minimum

__all__ = [
    "Directions",
    "Reduction",
    "Rows",
    "TrainingProblem",
    "are_finite",
    "check_weights",
    "outputs_by_block",
    "pull_back",
    "require_finite",
    "unwarned_floats",
    "warn_unless_minimum",
]
