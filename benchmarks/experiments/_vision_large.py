"""A residual net for all images of CIFAR-10, trained with moved and mirrored images: what a graphics card is for.

Needs torch and skorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.nn import functional as nnf

from skinfluence.snapshots import CheckpointRecorder

WIDTHS = (32, 64, 128, 256)
MARGIN = 4


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer, two skips: half as wide as the net that was made for speed contests.

    In training mode images are moved by up to four pixels and mirrored, and on a graphics card products are taken in
    bfloat16; in evaluation mode, in which rows are scored, nothing is drawn and all is in single precision.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.first = nn.Sequential(_layer(3, a), _layer(a, b), nn.MaxPool2d(2))
        self.skip = nn.Sequential(_layer(b, b), _layer(b, b))
        self.middle = nn.Sequential(_layer(b, c), nn.MaxPool2d(2), _layer(c, d), nn.MaxPool2d(2))
        self.other = nn.Sequential(_layer(d, d), _layer(d, d))
        self.head = nn.Linear(d, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = moved(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training and x.is_cuda):
            x = self.first(x.contiguous(memory_format=torch.channels_last))
            x = self.middle(x + self.skip(x))
            x = x + self.other(x)
            # The largest anywhere in the image; an eighth, as in the net it is taken from, keeps early steps small.
            found: torch.Tensor = self.head(x.amax(dim=(2, 3))) / 8
        return found.float()


def _layer(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def moved(x: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to `MARGIN` pixels either way, and half of them mirrored."""
    n, channels, height, width = x.shape
    corner = torch.randint(0, 2 * MARGIN + 1, (2, n, 1), device=x.device)
    rows = corner[0] + torch.arange(height, device=x.device)
    columns = corner[1] + torch.arange(width, device=x.device)
    columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, columns, columns.flip(1))
    padded = nnf.pad(x, (MARGIN,) * 4)
    image, channel = (torch.arange(size, device=x.device) for size in (n, channels))
    return padded[
        image[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


class Batches:
    """Batches of a skorch data set that lies on the device as a whole, in place of a DataLoader's row by row."""

    def __init__(self, dataset: Any, batch_size: int, device: str, shuffle: bool = False) -> None:
        self.X = torch.as_tensor(np.asarray(dataset.X), device=device)
        self.y = None if dataset.y is None else torch.as_tensor(np.asarray(dataset.y), device=device)
        self.batch_size, self.shuffle = batch_size, shuffle

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n, device = len(self.X), self.X.device
        order = torch.randperm(n, device=device) if self.shuffle else torch.arange(n, device=device)
        for rows in order.split(self.batch_size):
            yield self.X[rows], rows if self.y is None else self.y[rows]


def risen(step: int, of: int) -> float:
    """The share of the learning rate at a step: up over a quarter of the run, and down to nothing."""
    return max(min((step + 1) / (of / 4), (of - step) / (of * 3 / 4), 1.0), 0.0)


def make_net(n: int, epochs: int, batch: int, lr: float, every: int, device: str) -> Any:
    """The net, not yet fitted: momentum with a rate that rises over a quarter of the run and falls to nothing."""
    steps = epochs * -(-n // batch)
    return NeuralNetClassifier(
        ResNet9, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=lr, optimizer__momentum=0.9,
        optimizer__nesterov=True, optimizer__weight_decay=5e-4, max_epochs=epochs, batch_size=batch,
        iterator_train=Batches, iterator_train__shuffle=True, iterator_train__device=device, iterator_valid=Batches,
        iterator_valid__device=device, iterator_valid__batch_size=1000, train_split=None, verbose=0, device=device,
        classes=np.arange(10),
        callbacks=[
            ("rate", LRScheduler(
                torch.optim.lr_scheduler.LambdaLR, lr_lambda=partial(risen, of=steps), step_every="batch",
            )),
            ("keep", CheckpointRecorder(every=every)),
        ],
    )  # fmt: skip
