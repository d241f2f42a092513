"""Tables as docutils nodes."""

from __future__ import annotations

from collections.abc import Sequence

from docutils import nodes


def text(value: str) -> nodes.Node:
    """A cell's text."""
    return nodes.paragraph("", value)


def table(head: Sequence[str], rows: Sequence[Sequence[nodes.Node]], numeric: Sequence[bool]) -> nodes.table:
    """A table of cells; numeric columns are set to the right."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row([text(cell) for cell in head], numeric))
    group += nodes.tbody("", *(_row(cells, numeric) for cells in rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def _row(cells: Sequence[nodes.Node], numeric: Sequence[bool]) -> nodes.row:
    classes = (["text-right"] if number else [] for number in numeric)
    return nodes.row("", *(nodes.entry("", cell, classes=kind) for cell, kind in zip(cells, classes, strict=True)))
