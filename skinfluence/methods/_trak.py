"""TRAK: randomly projected gradients and the inverse of their second moments."""

from __future__ import annotations

from ..preconditioners import Preconditioner, ProjectedFisher
from ..snapshots import Final, Snapshots
from ._base import GradientMethod


class TRAK(GradientMethod):
    """Influence in a random subspace: ``(1/n) grad loss_i . R (R' F R + damping I)^-1 R' g``, averaged over models.

    F is the empirical Fisher matrix, the mean of ``grad loss_i grad loss_i'``, and R a random orthonormal basis of
    ``n_projections`` directions. As ``n_projections`` reaches the number of parameters, the scores become those of the
    whole empirical Fisher matrix in the place of the Hessian. Keeps rank and sign, not size.

    Parameters
    ----------
    n_projections : int, default=512
        Dimension of the subspace; no more than there are parameters that can move.
    damping : "auto" or float, default="auto"
        Added to the diagonal of the projected matrix; "auto" is a tenth of its mean eigenvalue.
    snapshots : snapshots, default=None
        The models averaged, such as ``Seeds(5)``, ``SGD(5)`` or ``Checkpoints([...])`` of `skinfluence.snapshots`; each
        gets a projection of its own. None is the fitted model.

    Notes
    -----
    Cost: ``n_projections`` derivatives along a direction for each row and model, one pass; then an `IP`. R is a
    randomised cosine transform, of which columns are made as they are needed; R' F R takes ``n_projections ** 2``
    numbers. Needs no second derivative.

    It fails where there are fewer rows than projections and no damping, and for a model that fits its rows so well that
    their gradients vanish: F then says little about curvature.

    Differences from the source: gradients of the training loss stand for gradients of the model's output (the margin),
    so that the weights ``1 - p`` of the source's Q are in them, and squared in F; the objective is any that the toolkit
    has, and may be a mean over rows; the models averaged need not be fitted on random halves of the rows; a damping is
    added; and R is a randomised cosine transform where the source draws signs or normal numbers.

    Source: Park, Georgiev, Ilyas, Leclerc and Madry, "TRAK: Attributing Model Behavior at Scale", ICML 2023.

    Examples
    --------
    >>> from skinfluence.methods import TRAK
    >>> from skinfluence.snapshots import SGD
    >>> TRAK(n_projections=64, snapshots=SGD(n_members=4))
    TRAK(n_projections=64, snapshots=SGD(n_members=4))
    """

    def __init__(
        self, n_projections: int = 512, damping: float | str = "auto", snapshots: Snapshots | None = None
    ) -> None:
        self.n_projections = n_projections
        self.damping = damping
        self.snapshots = snapshots

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return self.snapshots or Final(), ProjectedFisher(self.n_projections, self.damping)
