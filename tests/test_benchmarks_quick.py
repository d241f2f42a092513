"""The quick runs, as they are typed, of experiments that other tests run shortened; they need no data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("skorch")

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["cost", "moons", "moons_objectives", "synthetic"])
def test_a_quick_run_prints_its_tables_and_stores_nothing(name):
    results = ROOT / "benchmarks" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    command = [sys.executable, "-m", "benchmarks", "run", name, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"# {name} (quick)\n")
    assert "\n## " in done.stdout
    assert "(no rows)" not in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
