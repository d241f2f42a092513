"""GEX: influence from an ensemble of models that stochastic gradient descent reaches from the fitted one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._parallel import in_threads
from ..models import LinearModel
from ..objectives import BoundObjective
from ..operators import Rows, TrainingProblem
from ..preconditioners import Identity, Preconditioner
from ..snapshots import SGD, Snapshots
from ._base import GradientMethod, Solves
from ._named import IP

_CONVEX_NOTE = (
    "GEX was left without settings for its members, and made none: for a convex linear model at its optimum they stay "
    "around it, and the scores are those of 'ip'. Any setting makes them: GEX(n_steps=800)."
)
_OF_MEMBERS = ("n_members", "n_steps", "lr", "momentum", "batch_size")


class GEX(GradientMethod):
    """Influence from a geometric ensemble: members that train on from the fitted parameters.

    Two of that name, both positive for rows that help; they keep rank and sign, not size:

    - "gradient": `IP` averaged over the members, ``(1/n) mean_m grad loss_i(θ_m) . g(θ_m)``;
    - "loss": products of loss deviations, ``(1/n) mean_m (loss_i(θ_m) - loss_i(θ)) (T(θ_m) - T(θ))``, T the objective
      and θ the fitted parameters. No gradient of the objective is taken. Were the losses linear and the members drawn
      from a Gaussian with covariance ``H^-1``, the mean would be ``grad loss_i . H^-1 g``: the influence function.

    Parameters
    ----------
    variant : {"gradient", "loss"}, default="gradient"
        Which of the two.
    n_members : int, default=None
        Number of members; 8 to 32 are common. None: 8.
    n_steps : int, default=None
        Steps of SGD that each makes. None: 800. At 0 "gradient" is `IP`, and "loss" is refused.
    lr : float, default=None
        Learning rate. None: 0.05.
    momentum : float, default=None
        Momentum of SGD. None: 0.9.
    batch_size : int, default=None
        Rows in a step. None: 128.

    Notes
    -----
    For linear models, whose objective is convex, "gradient" comes to `IP`, as the paper says: with all of ``n_members``
    to ``batch_size`` left at None no member is made there, the scores are those of `IP`, and a note says so (the
    curators' ``notes_``). A setting is never ignored: with any of them given, be it ``n_steps=800``, members are made
    for every model.

    Cost: ``n_members * n_steps`` gradients of ``batch_size`` rows, which outweighs all else, and a pass over the
    training rows for each member ("gradient": over the validation rows too). The report holds the mean training loss at
    the fitted parameters and at each member: ``training_loss``, ``{"fitted": float, "members": list}``.

    "loss" fails where members wander far (small batches, a high learning rate): the losses of all rows, and the
    objective, then rise together, and every row looks helpful. Its noise falls as ``1 / sqrt(n_members)`` and is large
    at 8. SGD's members spread about evenly in all directions near an optimum, rather than with covariance ``H^-1``, so
    that on linear models its ranking is closer to that of `IP` than to that of `Exact`. Both variants need a learning
    rate that suits the features' scale; a member that diverges raises.

    Differences of "loss" from its source: the learning rate is constant, where the source lowers it along a cosine, and
    the penalty is a part of what the members descend.

    Source: "gradient", Eq. (5) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions"; "loss", Kim, Kim and
    Yang, "GEX: A flexible method for approximating influence via Geometric Ensemble", NeurIPS 2023.

    Examples
    --------
    >>> from skinfluence.methods import GEX
    >>> GEX(variant="loss", n_members=32)
    GEX(n_members=32, variant='loss')
    """

    def __init__(
        self,
        variant: str = "gradient",
        n_members: int | None = None,
        n_steps: int | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.variant = variant
        self.n_members = n_members
        self.n_steps = n_steps
        self.lr = lr
        self.momentum = momentum
        self.batch_size = batch_size

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        if self.variant not in ("gradient", "loss"):
            raise ValueError(f"variant must be 'gradient' or 'loss', got {self.variant!r}.")
        return SGD(**self._settings()), Identity()

    def _settings(self) -> dict[str, Any]:
        """What was said of the members."""
        return {name: getattr(self, name) for name in _OF_MEMBERS if getattr(self, name) is not None}

    def solves(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None
    ) -> tuple[Solves, dict[str, Any]]:
        """(weight, parameters, identity) of each member, and a report."""
        if self.variant == "loss":
            raise TypeError(
                "GEX(variant='loss') multiplies losses, not gradients: it scores rows as they are, against the "
                "objective as a whole. For scores of labels or of single validation rows use variant='gradient'."
            )
        if not self._settings() and isinstance(problem.fitted.model, LinearModel):
            self.parts()  # checks the variant
            return IP().solves(problem, random_state, n_jobs)[0], {"notes": [_CONVEX_NOTE]}
        snapshots, _ = super().solves(problem, random_state, n_jobs)
        return snapshots, {"training_loss": _training_losses(problem, [params for _, params, _ in snapshots], n_jobs)}

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if self.variant != "loss":
            return super().score_rows(problem, objective, rows, random_state, n_jobs)
        snapshots, _ = self.parts()
        assert isinstance(snapshots, SGD)
        if snapshots.n_steps == 0:
            raise ValueError(
                "n_steps=0 leaves every member at the fitted model, where no loss deviates: take 1 or more."
            )
        if snapshots.batch_size >= len(problem.rows):
            raise ValueError(
                f"batch_size={snapshots.batch_size} takes all of the {len(problem.rows)} rows in each step, so that "
                "all members are the same: choose a smaller one."
            )
        members = snapshots.draw(problem, random_state, n_jobs)
        rows = problem.rows if rows is None else rows
        model = problem.fitted.model
        losses, value = problem.row_values(problem.params, rows), objective.value(model)
        scores = np.zeros(len(rows))
        for weight, params in members:
            deviation = objective.value(model.at(params)) - value
            scores += (weight * deviation / problem.total_weight) * (problem.row_values(params, rows) - losses)
        report = {"training_loss": _training_losses(problem, [params for _, params in members], n_jobs)}
        return scores if rows.weight is None else scores * rows.weight, report


def _training_losses(problem: TrainingProblem, members: list[np.ndarray], n_jobs: int | None) -> dict[str, Any]:
    """The mean training loss, without penalty, at the fitted parameters and at members."""

    def mean(params: np.ndarray) -> float:
        return float(np.average(problem.row_values(params), weights=problem.rows.weight))

    fitted, *others = in_threads(mean, [(params,) for params in [problem.params, *members]], n_jobs)
    return {"fitted": fitted, "members": others}
