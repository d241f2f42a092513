"""Influence functions by approximate inverses of the Hessian: one solve, whatever the number of rows."""

from __future__ import annotations

from ..preconditioners import ArnoldiInverse, LiSSAInverse, Preconditioner
from ..snapshots import Final, Snapshots
from ._base import GradientMethod


class LiSSA(GradientMethod):
    """The influence function by LiSSA: ``(1/n) grad loss_i . (H + damping I)^-1 g``, from a truncated Neumann series.

    ``h <- g + (1 - damping/scale) h - H h / scale``, ``depth`` times; then ``h / scale`` is the solution. Tends to
    `Exact` as ``depth`` grows.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of the Hessian. "auto" adds nothing for linear models, what ``depth`` steps can settle for
        nets, and what negative curvature needs, with a warning.
    scale : "auto" or float, default="auto"
        What the Hessian is divided by; "auto" goes by its top eigenvalue, from Lanczos's iteration.
    depth : int, default=1000
        Most steps.
    tol : float, default=1e-4
        Relative residual to reach.
    batch_size : int, default=None
        Rows in a step; None is all.
    n_repeats : int, default=1
        Runs over mini-batches that are averaged.

    Notes
    -----
    Cost: up to ``depth`` products with the Hessian, times ``n_repeats``, and some ten for the scale, each two passes
    over the rows (or a batch of ``batch_size``). `CG` reaches the same answer in far fewer.

    It fails where the Hessian is ill-conditioned (the residual then stays large: it is reported, and warned of) and
    with mini-batches that are small beside the spread of the rows' norms: noise, or divergence, which raises and says
    what to change. Parameters and the report are those of `skinfluence.preconditioners.LiSSAInverse`.

    Source: Agarwal, Bullins and Hazan, JMLR 2017; Koh and Liang, ICML 2017.

    Examples
    --------
    >>> from skinfluence.methods import LiSSA
    >>> LiSSA(depth=5000)
    LiSSA(depth=5000)
    """

    def __init__(
        self,
        damping: float | str = "auto",
        scale: float | str = "auto",
        depth: int = 1000,
        tol: float = 1e-4,
        batch_size: int | None = None,
        n_repeats: int = 1,
    ) -> None:
        self.damping = damping
        self.scale = scale
        self.depth = depth
        self.tol = tol
        self.batch_size = batch_size
        self.n_repeats = n_repeats

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), LiSSAInverse(**self.get_params(deep=False))


class Arnoldi(GradientMethod):
    """The influence function on the Hessian's leading eigenvectors: ``(1/n) grad loss_i . V (Λ + damping I)^-1 V' g``.

    Parameters
    ----------
    rank : int, default=100
        Number of eigenpairs kept, those of largest size. At full rank the scores are those of `Exact`.
    n_iter : int, default=200
        Dimension of the Krylov space that they are found in.
    damping : "auto" or float, default="auto"
        Added to the eigenvalues; "auto" adds nothing for linear models, a tenth of the mean eigenvalue for nets, and
        what a negative one needs, with a warning.

    Notes
    -----
    Cost: ``n_iter`` products with the Hessian, two passes over the rows each, whatever the objectives that are scored;
    memory ``n_iter`` parameter vectors. The eigenvalues are reported.

    It fails, at a rank below full, where the objective depends on directions of small curvature: they are dropped,
    although the inverse weighs them most.

    Source: Schioppa et al., "Scaling Up Influence Functions", AAAI 2022; there the projection is Arnoldi's, which for
    the symmetric Hessian is Lanczos's.

    Examples
    --------
    >>> from skinfluence.methods import Arnoldi
    >>> Arnoldi(rank=20)
    Arnoldi(rank=20)
    """

    def __init__(self, rank: int = 100, n_iter: int = 200, damping: float | str = "auto") -> None:
        self.rank = rank
        self.n_iter = n_iter
        self.damping = damping

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), ArnoldiInverse(self.rank, self.n_iter, self.damping)
