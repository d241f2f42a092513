"""The parts of a long run, kept in a folder, so that one that was cut off goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT_VARIABLE = "SKINFLUENCE_BENCHMARK_PARTS"


class Parts:
    """Makes each part once; with no folder, anew in every run.

    Parameters
    ----------
    folder : path-like or None
        Where parts are kept. They are checked against nothing but the settings that they are asked for with: another
        protocol needs another folder.

    Attributes
    ----------
    seconds : dict of float
        What each part took of a processor, in whichever run it was made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.seconds: dict[str, float] = {}

    @classmethod
    def of_environment(cls) -> Parts:
        """In the folder that the environment variable names, if it names one."""
        return cls(os.environ.get(ENVIRONMENT_VARIABLE) or None)

    def rows(self, name: str, make: Callable[[], Any], settings: dict[str, Any] | None = None) -> Any:
        """What ``make()`` gives, as JSON gives it back; made anew if it was stored with other settings."""
        stamp = {} if settings is None else {"settings": _through_json(settings)}

        def made() -> dict[str, Any]:
            return {"found": _through_json(make())} | stamp

        return self._part(name, ".json", made, _write_json, _read_json, stamp)["found"]

    def arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays that ``make()`` gives."""
        found = self._part(name, ".npz", make, _write_arrays, _read_arrays)
        return {key: part for key, part in found.items() if key != "seconds"}

    def _part(
        self, name: str, end: str, make: Any, write: Any, read: Any, stamp: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        path = None if self.folder is None else self.folder / f"{name}{end}"
        if path is not None and path.is_file():
            found: dict[str, Any] = read(path)
            if not stamp or found.get("settings") == stamp["settings"]:
                self.seconds[name] = float(found["seconds"])
                return found
        began = time.process_time()
        found = dict(make())
        self.seconds[name] = round(time.process_time() - began, 1)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"unfinished_{path.name}")
            write(unfinished, found | {"seconds": self.seconds[name]})
            os.replace(unfinished, path)  # whole or not at all: a run may be cut off while it writes
            print(f"{name}: {self.seconds[name]:.1f} s", flush=True)
        return found


def _through_json(found: Any) -> Any:
    return json.loads(json.dumps(found, default=float))  # NumPy's numbers as Python's


def _write_json(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write_arrays(path: Path, found: dict[str, np.ndarray]) -> None:
    np.savez(path, **found)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)
