"""The floors: a module imports only modules of floors below its own, or of its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "skinfluence"

# Lowest first. A module that is in none of them fails the test: new modules choose their floor.
FLOORS: list[set[str]] = [
    {"curves", "metrics", "_checkpoint", "_held_out", "_parallel", "_progress", "_rows", "_seeds", "_version"}
    | {"datasets", "_bootstrap", "_groups"},
    {"losses", "nets"},
    {"models"},
    {"operators"},
    {"preconditioners", "snapshots", "objectives"},
    {"methods", "streams"},
    {"_scores"},
    {"fidelity", "_fitting", "_tables", "_crossfit", "_redraw", "_sampler", "_travel", "_parameters", "_rates"},
    {"_summary", "_curator", "_curation", "_reweighting", "_relabeling", "_pipeline", "_curated"},
    {"plotting"},
]
FLOOR_OF = {name: level for level, floor in enumerate(FLOORS) for name in floor}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The module or sub-package of the top level that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Top-level parts of skinfluence that a file imports, wherever in the file it does so."""
    package = ("skinfluence", *path.relative_to(PACKAGE).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("skinfluence.")}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full[:1] == ["skinfluence"]:
                found |= {full[1]} if len(full) > 1 else {a.name for a in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_no_floor_above_its_own(path):
    own = part_of(path)
    assert own in FLOOR_OF, f"{own} stands on no floor: put it on one in FLOORS"
    above = {part for part in imported_parts(path) if FLOOR_OF[part] > FLOOR_OF[own]}
    assert not above, f"{own} (floor {FLOOR_OF[own]}) imports {sorted(above)} from above"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_comment_is_taken_for_a_type(path):
    """The documentation has no source page of a module in which a comment that begins with "type:" is no type."""
    ast.parse(path.read_text(), type_comments=True)


def test_the_walk_sees_imports(tmp_path):
    # The walk must find what it is there to forbid, or the test above cannot fail.
    assert imported_parts(PACKAGE / "_curation.py") >= {"_curator"}
    assert imported_parts(PACKAGE / "preconditioners" / "cg.py") >= {"operators", "models"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_names_no_optional_dependency(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        # matplotlib is named where something is drawn, and imported then.
        of_plots = set() if path.parent == PACKAGE / "plotting" else {"matplotlib"}
        # Torch is named where nets are read, in a package that is imported when a net is met.
        of_torch = set() if path.parent == PACKAGE / "models" / "nets" else {"torch", "skorch"}
        assert not {n.split(".")[0] for n in names} & {
            *of_torch,
            *of_plots,
            "dask",
            "distributed",
            "pandas",
            "polars",
            "imblearn",
        }


def test_importing_the_package_imports_nothing_optional():
    code = (
        "import sys, sklearn.linear_model; before = set(sys.modules); import skinfluence; "
        "optional = {'torch', 'skorch', 'matplotlib', 'pandas', 'polars', 'imblearn'}; "
        "print(sorted(optional & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_stay_small():
    long = {str(p.relative_to(PACKAGE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"these want to be two modules: {long}"
