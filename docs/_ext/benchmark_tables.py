"""Figures in the text, from ``benchmarks/results/*.json``: none is typed by hand.

``.. benchmark-table:: noise | All 26 cells`` puts a table of a stored result on the page; ``:columns:`` and ``:rows:``
choose, separated by ``|``. The role ``bench``, of ``benchmark | table | row | column``, puts a figure into a text.
``.. benchmark-made:: noise`` says when and on what it was made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from _nodes import table, text
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective, SphinxRole

from benchmarks import _runner

Row = dict[str, Any]


@cache
def stored(name: str) -> dict[str, Any]:
    """A stored result."""
    return _runner.load(name)


@cache
def tables(name: str) -> dict[str, list[Row]]:
    """Its tables, as the benchmark itself makes them."""
    return _runner.benchmark(name).tables(stored(name))


def find_table(name: str, title: str) -> list[Row]:
    """A table by its title, or an error that names those there are."""
    found = tables(name)
    if title not in found:
        raise LookupError(f"The benchmark {name!r} has no table {title!r}: there are {sorted(found)}.")
    return found[title]


def find_row(rows: list[Row], key: str) -> Row:
    """The row whose first cells are those of the key, separated by ``/``."""
    wanted = [part.strip() for part in key.split("/")]
    for row in rows:
        if [_plain(cell) for cell in list(row.values())[: len(wanted)]] == wanted:
            return row
    there = dict.fromkeys(" / ".join(_plain(cell) for cell in list(row.values())[: len(wanted)]) for row in rows)
    raise LookupError(f"No row begins with {' / '.join(wanted)!r}: there are {list(there)}.")


def _split(argument: str) -> list[str]:
    return [part.strip() for part in argument.split("|")]


class BenchmarkTable(SphinxDirective):
    """A table of a stored result."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"columns": directives.unchanged, "rows": directives.unchanged, "title": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        try:
            return self._table()
        except LookupError as error:
            raise self.error(str(error)) from error

    def _table(self) -> list[nodes.Node]:
        name, title = _split(self.arguments[0])
        self.env.note_dependency(str(_runner.RESULTS / f"{name}.json"))
        rows = find_table(name, title)
        if "rows" in self.options:
            rows = [find_row(rows, key) for key in _split(self.options["rows"])]
        columns = _split(self.options["columns"]) if "columns" in self.options else list(rows[0])
        missing = set(columns) - set(rows[0])
        if missing:
            raise LookupError(f"The table {title!r} has no columns {sorted(missing)}: there are {list(rows[0])}.")
        numeric = [all(row[column] is None or _runner._is_figure(row[column]) for row in rows) for column in columns]
        cells = [[text(_cell(row[column])) for column in columns] for row in rows]
        return [table(columns, cells, numeric)]


class BenchmarkMade(SphinxDirective):
    """When, and on what, a stored result was made."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the sentence."""
        name = self.arguments[0]
        self.env.note_dependency(str(_runner.RESULTS / f"{name}.json"))
        result = stored(name)
        machine, seeds = result["machine"], len(result["seeds"])
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        says = (
            f"Made {result['date'][:10]} by “python -m benchmarks run {name}”, {seeds} seed{'s' * (seeds > 1)}, on "
            f"{machine['cpu']}, {machine['cores']} cores; {versions}."
        )
        return [nodes.paragraph("", says, classes=["made"])]


class BenchmarkFigure(SphinxRole):
    """One figure in a sentence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the text."""
        try:
            name, title, key, column = _split(self.text)
            self.env.note_dependency(str(_runner.RESULTS / f"{name}.json"))
            row = find_row(find_table(name, title), key)
            if column not in row:
                raise LookupError(f"The table {title!r} has no column {column!r}: there are {list(row)}.")
        except (LookupError, ValueError) as error:
            message = self.inliner.reporter.error(f"bench: {error}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        return [nodes.Text(_cell(row[column]))], []


def _cell(value: Any) -> str:
    return _runner._cell(value).replace("**", "").replace("-", "−") if _is_signed(value) else _plain(value)


def _plain(value: Any) -> str:
    return _runner._cell(value).replace("**", "")


def _is_signed(value: Any) -> bool:
    return _runner._is_figure(value) and str(value).startswith("-")


def setup(app: Any) -> dict[str, bool]:
    """Register the directives and the role."""
    app.add_directive("benchmark-table", BenchmarkTable)
    app.add_directive("benchmark-made", BenchmarkMade)
    app.add_role("bench", BenchmarkFigure())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
