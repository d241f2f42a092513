"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# A worker of pytest-xdist has one core, on which threads of BLAS and OpenMP would wait for each other: what is loaded
# already is told so, and what will be reads it in the environment.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# The laws draw the same examples in every run, so that a change is judged by itself;
# `--hypothesis-profile=others` draws others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("others", deadline=None)
settings.load_profile("same")


def pytest_runtest_setup() -> None:
    """What draws without a seed of its own draws the same in every run: a test that fails once in twenty is none."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def data_home() -> Path:
    """The folder of real data sets; tests that need it skip where there is none."""
    given = os.environ.get("SKINFLUENCE_DATA_HOME")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "tabular").is_dir():
        pytest.skip("needs the folder of data sets: set SKINFLUENCE_DATA_HOME")
    return folder


@pytest.fixture
def rng() -> np.random.RandomState:
    return np.random.RandomState(0)
