"""The pages of the API reference, made from the package: a public name that is not on them cannot be."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import skinfluence

_GENERATED = re.compile(r"set_.*_request$|get_metadata_routing$|_sklearn|mro$")


def public_modules() -> list[str]:
    """The package and its public modules, packages at any depth, from the top down."""
    names = ["skinfluence"]
    for found in pkgutil.walk_packages(skinfluence.__path__, "skinfluence."):
        parts = found.name.split(".")
        if any(part.startswith("_") for part in parts):
            continue
        # A module inside a package hands its public names to the package, where they are documented.
        if len(parts) == 2 or found.ispkg:
            names.append(found.name)
    return names


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: its ``__all__``, or else what it defines and does not hide."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def write(folder: Path) -> None:
    """Write the pages, each only if it is another than before."""
    folder.mkdir(exist_ok=True)
    pages = {"index.rst": _index()}
    for path, content in pages.items():
        target = folder / path
        if not target.is_file() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")


def _index() -> str:
    lines = [
        ".. _api:",
        "",
        "API reference",
        "=============",
        "",
        "Everything public. What is most used stands in ``skinfluence`` itself.",
        "",
    ]
    documented: set[int] = set()
    for name in public_modules():
        module = importlib.import_module(name)
        here = [n for n in public_names(module) if id(getattr(module, n)) not in documented]
        documented |= {id(getattr(module, n)) for n in here}
        things = [n for n in here if inspect.isclass(getattr(module, n)) or inspect.isfunction(getattr(module, n))]
        values = [n for n in here if n not in things]
        if not here:
            continue
        lines += [name, "-" * len(name), "", *_about(module), f".. currentmodule:: {name}", ""]
        lines += [".. autosummary::", "   :toctree: generated", "   :nosignatures:", ""]
        lines += [f"   {thing}" for thing in things]
        lines.append("")
        if values:
            lines += ["Besides, " + ", ".join(f"``{value}``" for value in values) + ".", ""]
    return "\n".join(lines)


def _about(module: ModuleType) -> list[str]:
    paragraph = (inspect.getdoc(module) or "").split("\n\n")[0]
    return [paragraph, ""] if paragraph else []


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what estimators inherit from scikit-learn, which documents it, and what it generates on them."""
    if _GENERATED.match(name) or (getattr(obj, "__module__", None) or "").startswith("sklearn."):
        return True
    return None


def mend(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Set what is written for readers of code: names in shapes, which end in an underscore, and inner products."""
    text = re.sub(r"\((\w+_),\)", r"(``\1``,)", "\n".join(lines))
    text = re.sub(r"``[^`]*``", lambda literal: literal.group().replace(" . ", " · "), text)
    lines[:] = text.split("\n")


def setup(app: Any) -> dict[str, bool]:
    """Connect the hooks; the docstrings are mended before numpydoc reads them."""
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", mend, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
