"""Influence functions whose inverse Hessian is approximated layer by layer."""

from __future__ import annotations

from ..preconditioners import DataInfInverse, EKFACInverse, Preconditioner
from ..snapshots import Final, Snapshots
from ._base import GradientMethod


class DataInf(GradientMethod):
    """Influence with a closed-form stand-in for the inverse Hessian: ``(1/n) grad loss_i . P g``, a P for each layer.

    ``P v = (v - (1/n) sum_j g_j (g_j . v) / (λ + ‖g_j‖²)) / λ``, the mean of ``(λ I + g_j g_j^T)^-1`` over the rows.

    Parameters
    ----------
    damping : float, default=0.1
        λ of a layer is this times the mean squared entry of its rows' gradients, as published. As it grows λ P tends to
        the identity, and the scores to `IP`'s over λ.

    Notes
    -----
    Cost: two passes over the rows for P g (norms; then products and sums), of about two and four plain forward passes,
    and one for the scores; no row's gradient is formed, except in layers of no known kind. The scores do not depend on
    how rows are cut into batches.

    Keeps rank and sign, not size: the mean of inverses is not the inverse of the mean, and is nearer to it for few
    parameters a layer.

    Source: Kwon, Wu, Wu and Zou, "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion
    Models", ICLR 2024, Eq. 5 and section 3.

    Examples
    --------
    >>> from skinfluence.methods import DataInf
    >>> DataInf(damping=0.5)
    DataInf(damping=0.5)
    """

    def __init__(self, damping: float = 0.1) -> None:
        self.damping = damping

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), DataInfInverse(self.damping)


class EKFAC(GradientMethod):
    """The influence function with the Gauss-Newton matrix approximated by eigenvalue-corrected Kronecker factors.

    Parameters
    ----------
    damping : float, default=0.1
        Added to a layer's eigenvalues: this times their mean.
    labels : {"sampled", "true"}, default="sampled"
        The labels whose gradients make the curvature: drawn from the model's predictions, or the rows' own.
    uncovered : {"raise", "diagonal", "leave_out"}, default="raise"
        What becomes of a net's parameters in layers of no known kind (recurrent ones, say).

    Notes
    -----
    Cost: two passes over the rows, of about three and four plain forward passes, and an eigen-decomposition for each
    layer; then one pass for the scores. A linear model is one layer, whose factor is a matrix of as many rows and
    columns as it has features and an intercept: one that takes more than ``sklearn.get_config()["working_memory"]``
    is refused, while "cg" works for any width. A sparse X stays sparse. Linear and convolution layers (groups, stride,
    dilation), embeddings and normalisations are covered.

    With ``labels="sampled"`` a row's label is drawn by its place: the same rows in another order have other draws, and
    scores that differ as those of another seed do. ``labels="true"`` does not depend on the order of the rows; nor does
    anything where the model has one output, as for two classes.

    Near `Exact` for one layer; between layers the curvature is taken to be zero.

    Source: George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis", NeurIPS 2018;
    for influence, Grosse et al., "Studying Large Language Model Generalization with Influence Functions", 2023.

    Examples
    --------
    >>> from skinfluence.methods import EKFAC
    >>> EKFAC(labels="true")
    EKFAC(labels='true')
    """

    def __init__(self, damping: float = 0.1, labels: str = "sampled", uncovered: str = "raise") -> None:
        self.damping = damping
        self.labels = labels
        self.uncovered = uncovered

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        return Final(), EKFACInverse(**self.get_params(deep=False))
