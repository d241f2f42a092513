"""Parts that stand by themselves, run by joblib: in this process, in others, or on a cluster.

``joblib.parallel_config(backend=...)`` says where. Processes of joblib's loky are given their share of the cores for
BLAS, and so are Dask's workers by Dask. For threads there is no such limit: what BLAS is told, it is told for the whole
process, other threads of the user included, and two calls at once that each set a limit and take it back could leave
the wrong one behind. OpenBLAS has one pool of threads, which callers share; with another BLAS, set
``threadpoolctl.threadpool_limits(1)`` around the call where threads of both kinds are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from joblib import effective_n_jobs
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel, delayed

from ._progress import Step


def run_all(jobs: Iterable[Any], n_jobs: int | None, step: Step | None = None) -> list[Any]:
    """The results of ``delayed`` calls, in order; ``step`` is called after each.

    Parameters
    ----------
    jobs : iterable of delayed calls
        By `sklearn.utils.parallel.delayed`.
    n_jobs : int or None
        As for joblib.
    step : callable, default=None
        As `skinfluence._progress.progress` gives it.

    Returns
    -------
    results : list
    """
    if step is None:
        return list(Parallel(n_jobs=n_jobs)(jobs))
    results = []
    for result in one_by_one(jobs, n_jobs):
        results.append(result)
        step()
    return results


def one_by_one(jobs: Iterable[Any], n_jobs: int | None, prefer: str | None = None) -> Iterator[Any]:
    """The results of ``delayed`` calls, in order, each as soon as it is there; ``prefer`` is as for joblib.

    From a backend that gives them all together (Ray's, multiprocessing) they come when the last is there.
    """
    backend, _ = get_active_backend(prefer=prefer)
    return_as = "generator" if backend.supports_return_generator else "list"
    yield from Parallel(n_jobs=n_jobs, prefer=prefer, return_as=return_as)(jobs)


def in_threads(function: Callable[..., Any], tasks: Sequence[tuple], n_jobs: int | None) -> list[Any]:
    """``function(*task)`` for each task, in order: for work in BLAS, to which nothing needs to be copied.

    A plain loop where nothing would run beside it: calling joblib costs as much as scoring some thousands of rows.
    """
    if len(tasks) == 1 or effective_n_jobs(n_jobs) == 1:
        return [function(*task) for task in tasks]
    return list(Parallel(n_jobs=n_jobs, prefer="threads")(delayed(function)(*task) for task in tasks))
