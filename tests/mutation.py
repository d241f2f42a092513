"""Mutation testing of the numerical core: ``python tests/mutation.py --sample 60``.

One small mistake at a time is made in a copy of the package (a sign, a comparison, a constant, a condition), and the
tests of that part are run on it. A mistake that they let pass is listed: a test is missing there, or the change was
none (a tolerance, a size of blocks).
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("losses.py", "curves.py", "operators/*.py", "preconditioners/*.py")
TESTS = (
    "tests/test_losses.py", "tests/test_methods.py", "tests/test_layered_methods.py", "tests/test_more_methods.py",
    "tests/test_layered_nets.py", "tests/test_objectives.py", "tests/models/test_inputs.py",
    "tests/test_regressions.py", "tests/models/test_conformance.py",
)  # fmt: skip

_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: None}
_COMPARISONS = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Line, description and tree of every mistake that can be made in a module."""
    nodes = list(ast.walk(tree))
    quiet = _within_raises(tree)
    for place, node in enumerate(nodes):
        if node in quiet:
            continue
        for said, change in _changes(node):
            mutated = copy.deepcopy(tree)
            twin = list(ast.walk(mutated))[place]
            change(twin)
            yield node.lineno, said, ast.fix_missing_locations(mutated)


def _within_raises(tree: ast.Module) -> set[ast.AST]:
    """What only makes messages, types or documentation."""
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
    return quiet


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
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


def survives(relative: str, source: str, seconds: float) -> bool:
    """Whether the tests pass with this source in place of a file of the package."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("skinfluence", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / "skinfluence" / relative).write_text(source, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for test in TESTS:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", test],
                    cwd=folder, env=environment, capture_output=True, timeout=seconds, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return False  # it no longer ends
            if done.returncode != 0:
                return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=60, help="mutants that are drawn (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300.0, help="limit of one test file")
    given = parser.parse_args()
    package = ROOT / "skinfluence"
    files = [path for part in PARTS for path in sorted(package.glob(part))]
    every = [
        (str(path.relative_to(package)), line, said, ast.unparse(tree))
        for path in files
        for line, said, tree in mutants(ast.parse(path.read_text(encoding="utf-8")))
    ]
    drawn = random.Random(given.seed).sample(every, min(given.sample, len(every))) if given.sample else every
    untouched = files[0].read_text(encoding="utf-8")
    if not survives(str(files[0].relative_to(package)), untouched, given.seconds):
        raise SystemExit("The tests fail without a mistake: mend that first.")
    with ThreadPoolExecutor(given.jobs) as pool:
        alive = pool.map(lambda one: survives(one[0], one[3], given.seconds), drawn)
        n_alive = 0
        for (name, line, said, _), survived in zip(drawn, alive, strict=True):
            n_alive += survived
            print(f"{'SURVIVED' if survived else 'killed  '} {name}:{line} {said}", flush=True)
    print(f"{len(drawn)} of {len(every)} mutants, {1 - n_alive / len(drawn):.0%} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
