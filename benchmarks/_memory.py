"""What a call needs of memory, seen in a process that has done nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: For glibc: buffers of 64 KiB and more go back to the system as soon as they are freed, so that none is used again
#: unseen. It makes a call slower.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def in_fresh_process(
    function: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a function of a module prints last, as JSON, called with arguments that can be written down."""
    call = f"from {function.__module__} import {function.__name__} as f; f{arguments!r}"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{function.__name__}{arguments!r} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident(reset: bool = False) -> float:
    """Highest resident memory so far, in MiB; `reset` makes it start again from now, where Linux lets it."""
    status = Path("/proc/self/status")
    if status.is_file():
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
