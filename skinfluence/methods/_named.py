"""Gradient methods that are a choice of snapshots and preconditioner, and nothing else."""

from __future__ import annotations

from ..preconditioners import CGInverse, ExactInverse, Identity, Preconditioner
from ..snapshots import Dropout, Final, Snapshots
from ._base import GradientMethod


class IP(GradientMethod):
    """Inner product of the objective's gradient and each row's: ``(1/n) grad loss_i . g``, no Hessian.

    Keeps rank and sign of the influence, not its size. One pass over the validation rows and one over the training
    rows.

    Source: Eq. (2) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions"; Charpiat et al., "Input
    Similarity from the Neural Network Perspective", NeurIPS 2019.

    Examples
    --------
    >>> from skinfluence.methods import IP
    >>> IP()
    IP()
    """

    def __init__(self) -> None:
        pass

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), Identity()


class IPEnsemble(GradientMethod):
    """`IP` averaged over copies of the model with parameters dropped at random.

    A dropped parameter is zero, the others are divided by ``1 - dropout`` (inverted dropout). Keeps rank and sign, not
    size. For a linear model all members go through one product with X.

    Parameters
    ----------
    n_members : int, default=5
        Number of copies.
    dropout : float, default=0.01
        Probability, in [0, 1), that a parameter is dropped. At 0 the scores are those of `IP`.

    Notes
    -----
    Source: section 3 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions".

    Examples
    --------
    >>> from skinfluence.methods import IPEnsemble
    >>> IPEnsemble(n_members=10)
    IPEnsemble(n_members=10)
    """

    def __init__(self, n_members: int = 5, dropout: float = 0.01) -> None:
        self.n_members = n_members
        self.dropout = dropout

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Dropout(self.n_members, self.dropout), Identity()


class Exact(GradientMethod):
    """The influence function: ``(1/n) grad loss_i . (H + damping I)^-1 g``.

    Calibrated: the score estimates the change of the objective when the row is removed and the model refitted with the
    penalty's total weight kept. That is a plain refit where scikit-learn adds the penalty to a sum of losses (logistic
    regression, ridge, SVMs); where it adds it to a mean (lasso, elastic net, the generalised linear models, SGD) a
    plain refit, as in `LeaveOneOut`, differs by a constant. A small Hessian is factored by Cholesky, a singular one
    inverted on its range, and a large one solved matrix-free by conjugate gradients.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of the Hessian; "auto" adds only what a Hessian with negative curvature needs, and reports
        it.

    Notes
    -----
    Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; Cook and Weisberg,
    1980.

    Examples
    --------
    >>> from skinfluence.methods import Exact
    >>> Exact(damping=0.01)
    Exact(damping=0.01)
    """

    calibrated = True

    def __init__(self, damping: float | str = "auto") -> None:
        self.damping = damping

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), ExactInverse(self.damping)


class CG(GradientMethod):
    """The influence function by conjugate gradients: products with the Hessian alone, whatever its size.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of the Hessian.
    tol : float, default=1e-6
        Relative residual at which to stop; the residual reached is reported.
    max_iter : int, default=1000
        Most iterations; reaching it warns.

    Notes
    -----
    Source: Martens, "Deep learning via Hessian-free optimization", ICML 2010.

    Examples
    --------
    >>> from skinfluence.methods import CG
    >>> CG(tol=1e-4)
    CG(tol=0.0001)
    """

    calibrated = True

    def __init__(self, damping: float | str = "auto", tol: float = 1e-6, max_iter: int = 1000) -> None:
        self.damping = damping
        self.tol = tol
        self.max_iter = max_iter

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), CGInverse(self.damping, self.tol, self.max_iter)
