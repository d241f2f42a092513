"""Tables of what the package has by name, made from the package: ``.. named-table:: methods`` or ``objectives``."""

from __future__ import annotations

import inspect
import re
from typing import Any

from _nodes import table, text
from benchmark_tables import tables
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from skinfluence.methods import METHODS
from skinfluence.objectives import OBJECTIVES

NAMED = {"methods": METHODS, "objectives": OBJECTIVES}


def first_sentence(documented: Any) -> str:
    """The first sentence of a docstring, without its markup."""
    paragraph = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    paragraph = re.sub(r"``[^`]*``", lambda literal: literal.group().replace(" . ", " · "), paragraph)
    return re.sub(r"`+([^`]*)`+", r"\1", re.split(r"(?<=[.!])\s", paragraph)[0]).rstrip(".")


def what_scores_say(method: Any) -> str:
    """How a method's scores may be read."""
    return "size, sign and rank" if getattr(method, "calibrated", False) else "rank"


def measured(name: str) -> str:
    """The time of a method in the stored speed benchmark, in products ``X @ coef``; a dash where it is not in it."""
    for row in tables("speed").get("Time, one thread", []):
        if row["call"].split(",")[0] == name and row["of"] == "X @ coef":
            return f"{float(row['ratio']):.1f} ({row['call'].split(',', 1)[1].strip()})"
    return "–"


class NamedTable(SphinxDirective):
    """One line for each name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        kind = self.arguments[0]
        head = {
            "methods": ["name", "what it is", "scores say", "time, in products X @ coef"],
            "objectives": ["name", "what it is"],
        }[kind]
        rows = []
        for name, make in NAMED[kind].items():
            made = make()
            named = nodes.paragraph("", "", nodes.literal("", f'"{name}"'))
            cells: list[nodes.Node] = [nodes.container("", named, self._link(kind, type(made)))]
            cells.append(text(first_sentence(type(made))))
            if kind == "methods":
                cells += [text(what_scores_say(made)), text(measured(name))]
            rows.append(cells)
        made_table = table(head, rows, [False] * len(head))
        made_table["classes"].append("named-table")
        return [made_table]

    def _link(self, kind: str, of: type) -> nodes.Node:
        target = f"skinfluence.{kind}.{of.__name__}"
        name = nodes.literal("", of.__name__)
        target = addnodes.pending_xref("", name, refdomain="py", reftype="class", reftarget=target)
        return nodes.paragraph("", "", target)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("named-table", NamedTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
