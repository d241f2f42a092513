"""Mutation testing of the numerical core: ``python tests/mutation.py --sample 100 --seed 1``.

One small mistake at a time is made in a module (a sign, a comparison, a constant, a condition), in memory, and the
tests that hold that module are run on it in a fork of a process that has the libraries loaded already, until one
fails. A mistake that they let pass is listed: a test is missing there, or the change was none. What is known to be
none is named in `EQUIVALENT`, with the reason. What was found last is in ``tests/mutation.md``. Needs ``os.fork``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("losses.py", "curves.py", "operators/*.py", "preconditioners/*.py")

_CONFORMANCE = "tests/models/test_conformance.py"
# The tests that hold a part, the likeliest to fail first.
TESTS: dict[str, tuple[str, ...]] = {
    "curves.py": ("tests/test_curves.py", "tests/test_losses.py"),
    "losses.py": ("tests/test_curves.py", "tests/test_losses.py"),
    "operators/": ("tests/test_operators.py", "tests/test_methods.py"),
    "preconditioners/": (
        "tests/test_preconditioners.py", "tests/test_methods.py", "tests/test_more_methods.py",
        "tests/test_layered_methods.py",
    ),
}  # fmt: skip

_PYTEST = ("-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
_BROKEN = 99  # not a status of pytest's: the fault is this script's

EQUIVALENT: dict[tuple[str, str], str] = {}
"""(file, expression or statement as `ast.unparse` writes it) -> why no test can, or should, tell a change in it."""

_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: None}
_COMPARISONS = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def mutants(tree: ast.Module, name: str = "") -> Iterator[tuple[int, str, ast.Module]]:
    """Line, description and tree of every mistake that can be made in a module."""
    nodes = list(ast.walk(tree))
    quiet = _without_effect(tree) | _equivalent(tree, name)
    for place, node in enumerate(nodes):
        if node in quiet:
            continue
        for said, change in _changes(node):
            mutated = copy.deepcopy(tree)
            twin = list(ast.walk(mutated))[place]
            change(twin)
            yield node.lineno, f"{said} in {_shown(node)}", ast.fix_missing_locations(mutated)


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_effect(tree: ast.Module) -> set[ast.AST]:
    """What only makes messages, types or documentation, or is read alike whatever it is."""
    quiet: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            quiet |= set(ast.walk(node))
        if isinstance(node, ast.AnnAssign):
            quiet |= set(ast.walk(node.annotation))
        if isinstance(node, ast.FunctionDef):
            for part in (*node.args.args, *node.args.kwonlyargs):
                quiet |= set(ast.walk(part))
            quiet |= set(ast.walk(node.returns)) if node.returns else set()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reshape":
            # Any negative size is the one that is left, to NumPy.
            sizes = [size for arg in node.args for size in ast.walk(arg)]
            quiet |= {size.operand for size in sizes if isinstance(size, ast.UnaryOp)}
    return quiet


def _equivalent(tree: ast.Module, name: str) -> set[ast.AST]:
    """What `EQUIVALENT` names of a module; an entry that names nothing is out of date, and raises."""
    quiet: set[ast.AST] = set()
    for file, text in EQUIVALENT:
        if file != name:
            continue
        found = [
            node for node in ast.walk(tree) if isinstance(node, (ast.expr, ast.stmt)) and ast.unparse(node) == text
        ]
        if not found:
            raise SystemExit(f"EQUIVALENT names what is not in {name}: {text}")
        for node in found:
            quiet |= set(ast.walk(node))
    return quiet


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, ast.BinOp) and _ARITHMETIC.get(type(node.op)):
        other = _ARITHMETIC[type(node.op)]
        yield f"{type(node.op).__name__} -> {other.__name__}", lambda n, op=other: setattr(n, "op", op())
    elif isinstance(node, ast.AugAssign) and _ARITHMETIC.get(type(node.op)):
        other = _ARITHMETIC[type(node.op)]
        yield f"{type(node.op).__name__}= -> {other.__name__}=", lambda n, op=other: setattr(n, "op", op())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        other = _COMPARISONS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {other.__name__}", lambda n, op=other: setattr(n, "ops", [op()])
    elif isinstance(node, ast.BoolOp):
        other = ast.And if isinstance(node.op, ast.Or) else ast.Or
        yield f"{type(node.op).__name__} -> {other.__name__}", lambda n, op=other: setattr(n, "op", op())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        plain = ast.UAdd if isinstance(node.op, ast.USub) else None
        if plain is not None:
            yield "-x -> +x", lambda n: setattr(n, "op", ast.UAdd())
        else:
            yield "not x -> not not x", lambda n: setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand))
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of the package from another source."""

    def __init__(self, module: str, source: str, path: Path) -> None:
        self.module, self.source, self.path = module, source, path

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def _run(relative: str, source: str, seconds: int) -> None:
    """Run the tests of a file on a source of it, in a process of its own; ends with pytest's status."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    module = "skinfluence." + relative.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Mutated(module, source, ROOT / "skinfluence" / relative))
    os.chdir(ROOT)
    tests = next(tests for part, tests in TESTS.items() if relative.startswith(part))
    quiet = io.StringIO()
    with redirect_stdout(quiet), redirect_stderr(quiet):
        try:
            status = int(pytest.main([*_PYTEST, *tests]))
        except BaseException:
            status = _BROKEN
    os._exit(status)


def outcome(relative: str, source: str, seconds: int) -> str:
    """What the tests say of this source in place of a file of the package: "SURVIVED", "killed", or "endless".

    Endless, which counts as killed, is what takes more than these seconds of the processor, or twenty times as long to
    wait for: on a busy machine waiting alone is no sign of it.
    """
    child = multiprocessing.get_context("fork").Process(target=_run, args=(relative, source, seconds))
    child.start()
    child.join(20 * seconds)
    if child.exitcode is None or child.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        child.kill()
        child.join()
        return "endless"
    if child.exitcode not in (0, 1, 2):  # passed, failed, or could not even be imported
        raise SystemExit(f"The tests of {relative} could not be run: status {child.exitcode}.")
    return "killed" if child.exitcode else "SURVIVED"


def _load_libraries() -> None:
    """What a test imports besides the package, once for all forks."""
    for name in (
        "pytest", "hypothesis", "scipy.sparse.linalg", "sklearn.linear_model", "sklearn.svm", "sklearn.datasets",
        "sklearn.neural_network", "sklearn.calibration", "joblib", "pandas",
    ):  # fmt: skip
        importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="mutants that are drawn (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=150, help="limit of one mutant, of the processor's time")
    parser.add_argument("--only", default="", help="files whose path begins so")
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    sys.path.insert(0, str(ROOT))
    _load_libraries()
    package = ROOT / "skinfluence"
    files = [path for part in PARTS for path in sorted(package.glob(part))]
    sources = {str(path.relative_to(package)): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    every = [
        (name, line, said, ast.unparse(mutated))
        for name, tree in sources.items()
        if name.startswith(given.only)
        for line, said, mutated in mutants(tree, name)
    ]
    drawn = random.Random(given.seed).sample(every, min(given.sample, len(every))) if given.sample else every
    for name in {next(n for n in sources if n.startswith(part)) for part in TESTS if given.only.startswith(part[:4])}:
        if outcome(name, ast.unparse(sources[name]), given.seconds) != "SURVIVED":
            raise SystemExit(f"The tests of {name} fail without a mistake: mend that first.")

    def tried(one: tuple[str, int, str, str]) -> tuple[str, float]:
        began = time.monotonic()
        return outcome(one[0], one[3], given.seconds), time.monotonic() - began

    parts: dict[str, list[str]] = {}
    with ThreadPoolExecutor(given.jobs) as pool:
        for (name, line, said, _), (found, took) in zip(drawn, pool.map(tried, drawn), strict=True):
            parts.setdefault(name.partition("/")[0], []).append(found)
            print(f"{found:8} {took:5.1f} s {name}:{line} {said}", flush=True)
    for part, found in sorted(parts.items()):
        print(f"{part}: {_killed(found)}")
    print(f"{len(drawn)} of {len(every)} mutants: {_killed([one for found in parts.values() for one in found])}")
    return 0


def _killed(found: list[str]) -> str:
    n = len(found) - found.count("SURVIVED")
    return f"{n} of {len(found)} killed ({n / len(found):.1%}), {found.count('endless')} of them as endless"


if __name__ == "__main__":
    sys.exit(main())
