"""Progress of long work: bars of tqdm where it is installed, lines elsewhere, and nothing unless it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Step = Callable[[], Any]
"""To be called when a part is done."""

_LINES = 10  # at most so many, where there are no bars


@contextmanager
def progress(total: int, what: str, verbose: Any) -> Iterator[Step | None]:
    """A bar for ``total`` parts on standard error, as long as the context lasts; those within others are below.

    Parameters
    ----------
    total : int
        Number of parts.
    what : str
        What they are, in the plural.
    verbose : bool or int
        Falsy: nothing is shown.

    Yields
    ------
    step : callable or None
        To be called after each part; None if nothing is shown.

    Examples
    --------
    >>> from skinfluence._progress import progress
    >>> with progress(3, "folds", verbose=0) as step:
    ...     print(step)
    None
    """
    if not verbose:
        yield None
    elif importlib.util.find_spec("tqdm") is None:
        yield _Lines(total, what)
    else:
        # leave=None: a bar within another goes when it has ended.
        with importlib.import_module("tqdm").tqdm(total=total, desc=what, leave=None) as bar:
            yield bar.update


class _Lines:
    """A line whenever another tenth of the parts is done."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        if self.done * _LINES // self.total > (self.done - 1) * _LINES // self.total:
            print(f"{self.what}: {self.done} of {self.total}", file=sys.stderr, flush=True)
