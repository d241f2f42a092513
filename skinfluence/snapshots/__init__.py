"""Snapshots: the parameter vectors at which a method takes its gradients, each with its weight."""

from ._base import Dropout, Final, Snapshot, Snapshots
from ._checkpoints import Checkpoints, History
from ._partial_fit import record_partial_fit
from ._recorder import CheckpointRecorder
from ._seeds import Seeds
from ._sgd import SGD

__all__ = [
    "SGD",
    "CheckpointRecorder",
    "Checkpoints",
    "Dropout",
    "Final",
    "History",
    "Seeds",
    "Snapshot",
    "Snapshots",
    "record_partial_fit",
]
