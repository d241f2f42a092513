"""Partial results on disk, so that a computation that was stopped goes on where it was.

A computation is made of parts, each a few arrays under a name. A part is a ``.npz`` file, written under another name
and then renamed, so that what is there is whole; nothing is pickled, so that reading a folder runs no code from it. The
folder is named by a digest of everything that the parts depend on: results of other data, parameters or seeds are
never mistaken for these.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.utils.parallel import delayed

from ._parallel import run_all
from ._progress import Step
from ._version import __version__

Arrays = dict[str, np.ndarray]
Part = tuple[str, Callable[..., Arrays], tuple[Any, ...]]
"""A name, and the function and arguments that make the arrays."""


class Checkpoint:
    """Where the parts of one computation are kept.

    Parameters
    ----------
    directory : str, path or None
        The folder under which that of this computation is made; None keeps nothing.
    name : str
        What is computed: the first half of the folder's name.
    inputs : tuple
        Everything that the parts depend on; see `digest`.
    stand_in : callable, default=None
        As for `digest`.

    Raises
    ------
    TypeError
        If ``directory`` is neither a path nor None.
    ValueError
        If it is a file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skinfluence._checkpoint import Checkpoint
    >>> def square(x):
    ...     print("computing")
    ...     return {"squared": np.array(x * x)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):
    ...         (part,) = Checkpoint(folder, "squares", (3,)).compute([("first", square, (3,))])
    computing
    >>> int(part["squared"])
    9
    """

    def __init__(
        self, directory: Any, name: str, inputs: tuple[Any, ...], stand_in: Callable[[Any], Any] | None = None
    ) -> None:
        self.folder: Path | None = None
        if directory is None:
            return
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"checkpoint_dir must be the path of a folder or None, got {directory!r}.")
        parent = Path(directory)
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"checkpoint_dir must be a folder, and {str(parent)!r} is a file. Choose another path.")
        # Another release, of this package or of the solvers, may compute otherwise.
        self.folder = parent / f"{name}-{digest(__version__, sklearn.__version__, *inputs, stand_in=stand_in)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def compute(self, parts: Sequence[Part], n_jobs: int | None = None, step: Step | None = None) -> list[Arrays]:
        """The arrays of each part: read where they are kept, else made, and kept as soon as they are.

        ``step`` is called for each of them.
        """
        made = [self._read(name) for name, _, _ in parts]
        missing = [i for i, found in enumerate(made) if found is None]
        if step is not None:
            for _ in range(len(parts) - len(missing)):
                step()
        new = run_all((delayed(self._make)(*parts[i]) for i in missing), n_jobs, step)
        for i, arrays in zip(missing, new, strict=True):
            made[i] = arrays
        return [arrays for arrays in made if arrays is not None]

    def _make(self, name: str, function: Callable[..., Arrays], args: tuple[Any, ...]) -> Arrays:
        # Written by the process that computes it: whatever ends the others leaves this part on disk.
        arrays = function(*args)
        if self.folder is not None:
            _write(self._path(name), arrays)
        return arrays

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.npz"

    def _read(self, name: str) -> Arrays | None:
        if self.folder is None or not self._path(name).exists():
            return None
        try:
            with self._path(name).open("rb") as file, np.load(file, allow_pickle=False) as kept:
                return dict(kept)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{str(self._path(name))!r} is no part that can be read: {error}. It was changed after it was "
                "written; delete it, and it is computed again."
            ) from error


def _write(path: Path, arrays: Arrays) -> None:
    """All of the file or none of it: written under another name, brought to the disk, and then renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_hidden(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes each for `allow_pickle`
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    # A process that was killed while it wrote this could not clear up. (One that writes it just now finds it written.)
    for left in path.parent.glob(f"{_hidden(path)}{'?' * 8}.tmp"):  # as many letters as mkstemp draws
        left.unlink(missing_ok=True)


def _hidden(path: Path) -> str:
    return f".{path.stem}-"


def _rename(temporary: str, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:  # another process wrote the same, and cleared up
        if not path.is_file():
            raise


def digest(*things: Any, stand_in: Callable[[Any], Any] | None = None) -> str:
    """Hexadecimal digest of contents: the same for equal ones, in any process.

    Arrays count by dtype, shape and values, estimators by class and parameters (not by what they were fitted to),
    functions by name, byte code, defaults and closure (not by the functions they call).

    Parameters
    ----------
    *things : objects
        Numbers, strings, arrays, sparse matrices, containers, dataclasses, estimators, functions, classes, and whatever
        can be pickled.
    stand_in : callable, default=None
        Called with every object met on the way; what it returns is looked at in the object's place.

    Returns
    -------
    digest : str

    Raises
    ------
    TypeError
        If there is an object that cannot be pickled either.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence._checkpoint import digest
    >>> digest(np.arange(3), {"a": 1, "b": None}) == digest(np.array([0, 1, 2]), {"b": None, "a": 1})
    True
    >>> digest([1, 2]) == digest([1], [2])
    False
    """
    feeder = _Feeder(stand_in)
    feeder.feed(things)
    return feeder.hash.hexdigest()


class _Feeder:
    """Walks through objects and feeds a hash."""

    def __init__(self, stand_in: Callable[[Any], Any] | None) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.stand_in = stand_in
        self.functions: set[int] = set()

    def put(self, *words: Any) -> None:
        for word in words:
            # With its length, lest two words be taken for two others that run together alike.
            raw = word if isinstance(word, bytes) else str(word).encode()
            self.hash.update(len(raw).to_bytes(8, "little"))
            self.hash.update(raw)

    def feed(self, thing: Any) -> None:
        thing = thing if self.stand_in is None else self.stand_in(thing)
        if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
            self.put(type(thing).__name__, repr(thing))
        elif isinstance(thing, (np.ndarray, np.generic)):
            self.array(np.asarray(thing))
        elif sp.issparse(thing):
            rows = thing if thing.format in ("csr", "csc") else thing.tocsr()
            self.put("sparse", rows.format, rows.shape)
            for part in (rows.data, rows.indices, rows.indptr):
                self.array(part)
        elif isinstance(thing, Mapping):
            self.put("mapping", len(thing))
            for key in sorted(thing, key=repr):
                self.feed(key)
                self.feed(thing[key])
        elif isinstance(thing, (list, tuple)):
            self.put("sequence", len(thing))
            for part in thing:
                self.feed(part)
        elif isinstance(thing, (set, frozenset)):
            self.put("set", *sorted(digest(part, stand_in=self.stand_in) for part in thing))
        else:
            self.other(thing)

    def array(self, values: np.ndarray) -> None:
        self.put("array", values.dtype.str, values.shape)
        if values.dtype.hasobject:
            for value in values.ravel().tolist():
                self.feed(value)
        else:
            self.hash.update(np.ascontiguousarray(values).view(np.uint8).data)

    def other(self, thing: Any) -> None:
        cls = type(thing)
        if isinstance(thing, type):
            self.put("class", thing.__module__, thing.__qualname__)
        elif isinstance(thing, types.FunctionType):
            self.function(thing)
        elif isinstance(thing, types.CodeType):
            self.put("code", thing.co_code, thing.co_names)
            self.feed(thing.co_consts)
        elif isinstance(thing, types.MethodType):
            self.put("method", thing.__func__.__qualname__)
            self.feed(thing.__self__)
        elif isinstance(thing, functools.partial):
            self.put("partial")
            self.feed((thing.func, thing.args, thing.keywords))
        elif hasattr(thing, "get_params"):
            self.put("estimator", cls.__module__, cls.__qualname__)
            self.feed(thing.get_params())
        elif dataclasses.is_dataclass(thing):
            self.put("dataclass", cls.__module__, cls.__qualname__)
            for field in dataclasses.fields(thing):
                self.feed(getattr(thing, field.name))
        else:
            try:
                self.put("pickled", joblib.hash(thing))
            except Exception as error:  # joblib raises what the object's own pickling raises
                raise TypeError(
                    f"checkpoint_dir needs a key made of all that the results depend on, and {thing!r} cannot be "
                    f"pickled: {error}. Leave checkpoint_dir out, or use an object that can be pickled."
                ) from error

    def function(self, function: types.FunctionType) -> None:
        self.put("function", function.__module__, function.__qualname__)
        if id(function) in self.functions:  # a function that calls itself holds itself in its closure
            return
        self.functions.add(id(function))
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        self.feed((function.__code__, function.__defaults__, function.__kwdefaults__, cells))
