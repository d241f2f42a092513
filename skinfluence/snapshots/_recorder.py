"""A callback that keeps the checkpoints of a skorch net while it is trained."""

from __future__ import annotations

import os
import sys
from numbers import Integral
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar

from ._checkpoints import History


class CheckpointRecorder(BaseEstimator):
    """A skorch callback: keeps the net's parameters after every few epochs, with the learning rates between them.

    Parameters
    ----------
    every : int, default=1
        Epochs between two checkpoints.
    dirname : str or path-like, default=None
        Folder for one file a checkpoint (a torch ``state_dict``); it is made if need be. None keeps them in memory.

    Attributes
    ----------
    history_ : History
        For `skinfluence.methods.TracIn`, `TDA` and `Checkpoints`: state dicts, or the paths of their files, and for
        each the learning rate that one row's gradients were multiplied with since the checkpoint before.

    Notes
    -----
    A row's gradient enters a step as ``learning rate / batch size``; over an epoch that is the sum of the steps'
    learning rates divided by the number of rows. The learning rate is that of the optimiser's first group; what an
    optimiser does beyond gradient descent (momentum, Adam's scaling) is not followed.

    Examples
    --------
    >>> from skinfluence.snapshots import CheckpointRecorder
    >>> recorder = CheckpointRecorder(every=2)
    >>> net = NeuralNetClassifier(Module, callbacks=[("keep", recorder)]).fit(X, y)  # doctest: +SKIP
    >>> scores = influence_scores(net, X, y, method=TracIn(recorder.history_))  # doctest: +SKIP
    """

    def __init__(self, every: int = 1, dirname: str | os.PathLike[str] | None = None) -> None:
        self.every = every
        self.dirname = dirname

    # --- what skorch calls --------------------------------------------------------------------------------------------

    def initialize(self) -> CheckpointRecorder:
        """Forget an earlier training run."""
        check_scalar(self.every, "every", Integral, min_val=1)
        self._kept: list[Any] = []
        self._weights: list[float] = []
        self._travelled, self._rows, self._since, self._epoch = 0.0, 0, 0.0, 0
        return self

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Nothing yet."""

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Start to count the epoch's steps."""
        self._travelled, self._rows = 0.0, 0

    def on_batch_begin(self, net: Any, **kwargs: Any) -> None:
        """Nothing yet."""

    def on_grad_computed(self, net: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Count the step and its rows."""
        if training:
            self._travelled += float(net.optimizer_.param_groups[0]["lr"])
            self._rows += len(batch[1]) if isinstance(batch, (tuple, list)) else len(batch)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep a checkpoint where one is due."""
        self._epoch += 1
        self._since += self._travelled / max(self._rows, 1)
        if self._epoch % self.every == 0:
            self._keep(net)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the last checkpoint."""
        if self._since > 0:
            self._keep(net)

    # --- keeping ------------------------------------------------------------------------------------------------------

    @property
    def history_(self) -> History:
        """The checkpoints so far."""
        if not getattr(self, "_kept", None):
            raise AttributeError("history_ is there after the net was trained with this callback for an epoch.")
        return History(tuple(self._kept), tuple(self._weights))

    def _keep(self, net: Any) -> None:
        state = net.module_.state_dict()
        if self.dirname is None:
            self._kept.append({name: t.detach().cpu().clone() for name, t in state.items()})
        else:
            folder = Path(self.dirname)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"epoch_{self._epoch:05d}.pt"
            # Written whole or not at all: a run may be killed meanwhile.
            torch: Any = sys.modules["torch"]
            torch.save(state, f"{path}.part")
            os.replace(f"{path}.part", path)
            self._kept.append(str(path))
        self._weights.append(self._since)
        self._since = 0.0
