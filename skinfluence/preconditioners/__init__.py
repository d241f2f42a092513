"""Preconditioners: the matrix P between the gradients of the rows and that of the objective, one a file."""

from ._base import Preconditioner, Solve
from .arnoldi import ArnoldiInverse
from .cg import CGInverse
from .datainf import DataInfInverse
from .ekfac import EKFACInverse
from .exact import ExactInverse
from .identity import Identity
from .lissa import LiSSAInverse
from .projected_fisher import ProjectedFisher

__all__ = [
    "ArnoldiInverse",
    "CGInverse",
    "DataInfInverse",
    "EKFACInverse",
    "ExactInverse",
    "Identity",
    "LiSSAInverse",
    "Preconditioner",
    "ProjectedFisher",
    "Solve",
]
