"""Preconditioners: the matrix P between the gradients of the rows and that of the objective, one a file."""

from ._base import Preconditioner, Solve
from .cg import CGInverse
from .exact import ExactInverse
from .identity import Identity

__all__ = ["CGInverse", "ExactInverse", "Identity", "Preconditioner", "Solve"]
