"""Snapshots from training on: a geometric ensemble."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.parallel import delayed

from .._parallel import run_all
from ..operators import TrainingProblem
from ._base import Snapshot
from ._batches import batch_gradient, batch_indices

_FAR = 1e6


class SGD(BaseEstimator):
    """Members that stochastic gradient descent on the training objective reaches from the fitted parameters.

    Each member makes ``n_steps`` steps ``m <- momentum m + grad``, ``theta <- theta - lr m`` on mini-batches of its own
    seed, the penalty included. Parameters that an L1 penalty, a bound or a pruning rule holds at zero stay there.

    Parameters
    ----------
    n_members : int, default=8
        Number of members; 8 to 32 are common.
    n_steps : int, default=800
        Steps of each. At 0 every member is the fitted model.
    lr : float, default=0.05
        Learning rate, the same at all steps.
    momentum : float, default=0.9
        In [0, 1).
    batch_size : int, default=128
        Rows in a batch; as many as there are, or more, makes every step a full gradient, and all members the same.

    Raises
    ------
    ValueError
        If a number is out of range, or a member diverges.

    Notes
    -----
    Costs ``n_members * n_steps`` gradients of ``batch_size`` rows. A learning rate suits features of unit scale: with
    others scale them first, or lower ``lr``. With ``n_jobs`` several members are made at the same time, and are the
    same as one by one.

    Source: Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018; for
    influence, Kim et al., "GEX", NeurIPS 2023.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.snapshots import SGD
    >>> method = GradientMethod(snapshots=SGD(n_members=4, n_steps=100))
    """

    def __init__(
        self,
        n_members: int = 8,
        n_steps: int = 800,
        lr: float = 0.05,
        momentum: float = 0.9,
        batch_size: int = 128,
    ) -> None:
        self.n_members = n_members
        self.n_steps = n_steps
        self.lr = lr
        self.momentum = momentum
        self.batch_size = batch_size

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> list[Snapshot]:
        check_scalar(self.n_members, "n_members", Integral, min_val=1)
        check_scalar(self.n_steps, "n_steps", Integral, min_val=0)
        check_scalar(self.lr, "lr", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.momentum, "momentum", Real, min_val=0, max_val=1, include_boundaries="left")
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        # A seed for each member: a member is the same whichever others are drawn.
        seeds = random_state.randint(np.iinfo(np.int32).max, size=self.n_members).tolist()
        if self.batch_size >= len(problem.rows):  # nothing is drawn: one run stands for all
            return [(1.0 / self.n_members, self._member(problem, seeds[0]))] * self.n_members
        # Thousands of small steps, mostly in Python: threads would wait for each other, processes do not.
        members = run_all((delayed(self._member)(problem, seed) for seed in seeds), n_jobs)
        return [(1.0 / self.n_members, params) for params in members]

    def _member(self, problem: TrainingProblem, seed: int) -> np.ndarray:
        start, free = problem.params, problem.free
        params, velocity = np.array(start, dtype=np.float64), np.zeros(start.shape)
        n = len(problem.rows)
        batches = batch_indices(n, self.batch_size, check_random_state(seed))
        far = _FAR * (1.0 + float(np.linalg.norm(start)))
        for step in range(self.n_steps):
            rows = problem.rows if self.batch_size >= n else problem.rows.take(next(batches))
            velocity = self.momentum * velocity + np.where(free, batch_gradient(problem, params, rows), 0.0)
            params = params - self.lr * velocity
            # Caught well before outputs overflow: a step that diverges multiplies the distance.
            if not np.linalg.norm(params - start) < far:
                raise ValueError(
                    f"SGD diverged after {step + 1} steps with lr={self.lr:g} and momentum={self.momentum:g}. Lower "
                    "lr, or scale the features."
                )
        return params
