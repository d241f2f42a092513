"""``.. large-plan::``: how long a thousand million rows would take, by the rates stored as "large"."""

from __future__ import annotations

from typing import Any

from _nodes import text
from benchmark_tables import Row, as_table, is_measured, not_measured, result_file, stored
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROWS = 1_000_000_000


def plan(rows: list[Row]) -> list[Row]:
    """A line for each measured rate: the minutes that so many rows take, and the memory that a run of them needs."""
    return [
        {
            "rows are in": row["source"],
            "method": row["method"],
            "columns": f"{row['columns']:,}",
            "measured on rows": f"{row['rows']:,}",
            "million rows a second": f"{row['rows'] / row['seconds'] / 1e6:.2f}",
            "minutes": f"{ROWS / row['rows'] * row['seconds'] / 60:.1f}",
            "GiB beside the targets": _memory(row),
        }
        for row in rows
    ]


def _memory(row: Row) -> str | None:
    """8 bytes a row for the scores, and what the measured run took above its own scores."""
    if row["extra_mib"] is None:
        return None
    own_scores = 8 * row["rows"] / 2**20
    return f"{(8 * ROWS / 2**20 + max(row['extra_mib'] - own_scores, 0)) / 2**10:.1f}"


class LargePlan(SphinxDirective):
    """A table, made of the stored rates."""

    def run(self) -> list[nodes.Node]:
        """Make the table, or say that there are no rates."""
        self.env.note_dependency(str(result_file("large")))
        if not is_measured("large"):
            return [not_measured("large")]
        lines = plan(stored("large")["rows"])
        return [as_table(lines, list(lines[0])) if lines else text("The stored result holds no rates.")]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("large-plan", LargePlan)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
