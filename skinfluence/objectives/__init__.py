"""Objectives: what the scores are about. Every objective is *lower is better*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._base import BoundObjective, MeanLoss, Objective
from .counterfactual import Counterfactual
from .custom import CustomObjective
from .fairness import DemographicParity, EqualizedOdds, EqualOpportunity
from .joint import Joint
from .robustness import AdversarialRobustness, adversarial_rows
from .utility import Utility

__all__ = [
    "OBJECTIVES",
    "AdversarialRobustness",
    "BoundObjective",
    "Counterfactual",
    "CustomObjective",
    "DemographicParity",
    "EqualOpportunity",
    "EqualizedOdds",
    "Joint",
    "MeanLoss",
    "Objective",
    "Utility",
    "adversarial_rows",
    "resolve_objective",
]

OBJECTIVES: dict[str, Callable[[], Any]] = {
    "utility": Utility,
    "demographic_parity": DemographicParity,
    "equal_opportunity": EqualOpportunity,
    "equalized_odds": EqualizedOdds,
    "robustness": AdversarialRobustness,
}


def resolve_objective(objective: Any) -> Any:
    """An objective from its name or from a configured object.

    Examples
    --------
    >>> from skinfluence.objectives import resolve_objective
    >>> resolve_objective("utility")
    Utility()
    """
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            raise ValueError(
                f"objective must be one of {sorted(OBJECTIVES)} or an objective object, got {objective!r}."
            )
        return OBJECTIVES[objective]()
    if isinstance(objective, type) or not hasattr(objective, "bind"):
        raise TypeError(
            f"objective must be one of {sorted(OBJECTIVES)} or an object such as Utility(loss='mae') or, for a "
            f"function of your own, CustomObjective(function); got {objective!r}."
        )
    return objective
