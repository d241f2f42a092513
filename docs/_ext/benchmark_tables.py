"""Figures in the text, from ``benchmarks/results/*.json``: none is typed by hand.

``.. benchmark-table:: noise | All 26 cells`` puts a table of a stored result on the page; ``:columns:`` and ``:rows:``
choose, separated by ``|``. ``.. benchmark-tables:: vision`` puts all of its tables there, each below its title;
``:titles:`` chooses those whose titles begin so. The role ``bench``, of ``benchmark | table | row | column``, puts a
figure into a text, ``.. benchmark-picture:: moons | moons_100`` a picture, and ``.. benchmark-made:: noise`` says when
and on what it was made. ``.. if-measured:: vision`` shows what stands in it only if there is a stored result.

A benchmark without a stored result is said to be "not measured". A table, row or column that a stored result does not
have is an error.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from _nodes import table, text
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective, SphinxRole

from benchmarks import _runner

Row = dict[str, Any]
NOT_MEASURED = "not measured"


def result_file(name: str) -> Path:
    """Where the result of a benchmark is stored, if it is."""
    if name not in _runner.NAMES:
        raise LookupError(f"There is no benchmark {name!r}: there are {list(_runner.NAMES)}.")
    return _runner.RESULTS / f"{name}.json"


def is_measured(name: str) -> bool:
    """Whether there is a stored result."""
    return result_file(name).is_file()


@cache
def stored(name: str) -> dict[str, Any]:
    """A stored result."""
    return _runner.load(name)


@cache
def tables(name: str) -> dict[str, list[Row]]:
    """Its tables, as the benchmark itself makes them; none if there is no stored result."""
    return _runner.benchmark(name).tables(stored(name)) if is_measured(name) else {}


def find_table(name: str, title: str) -> list[Row]:
    """A table by its title, or by a beginning that no other has (titles may end in figures)."""
    found = tables(name)
    fitting = [title] if title in found else [whole for whole in found if whole.startswith(title)]
    if len(fitting) != 1:
        raise LookupError(f"The benchmark {name!r} has not one table {title!r}: there are {sorted(found)}.")
    return found[fitting[0]]


def find_row(rows: list[Row], key: str) -> Row:
    """The row whose first cells are those of the key, separated by ``/``."""
    wanted = [part.strip() for part in key.split("/")]
    for row in rows:
        if [_plain(cell) for cell in list(row.values())[: len(wanted)]] == wanted:
            return row
    there = dict.fromkeys(" / ".join(_plain(cell) for cell in list(row.values())[: len(wanted)]) for row in rows)
    raise LookupError(f"No row begins with {' / '.join(wanted)!r}: there are {list(there)}.")


def as_table(rows: list[Row], columns: list[str]) -> nodes.table:
    """Rows as a table of some columns, figures to the right."""
    numeric = [all(row[column] is None or _runner._is_figure(row[column]) for row in rows) for column in columns]
    cells = [[text(_cell(row[column])) for column in columns] for row in rows]
    return table(columns, cells, numeric)


def not_measured(name: str) -> nodes.paragraph:
    """What stands where a figure would."""
    says = f"Not measured: no result of “python -m benchmarks run {name}” is stored."
    return nodes.paragraph("", says, classes=["made"])


def _split(argument: str) -> list[str]:
    return [part.strip() for part in argument.split("|")]


class _OfABenchmark(SphinxDirective):
    """What needs a stored result, whose name comes first."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the nodes, or say that there is nothing to make them of."""
        name, *rest = _split(self.arguments[0])
        try:
            self.env.note_dependency(str(result_file(name)))
            return self.made(name, *rest) if is_measured(name) else self.missing(name)
        except (LookupError, TypeError) as error:
            raise self.error(str(error)) from error

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        raise NotImplementedError

    def missing(self, name: str) -> list[nodes.Node]:
        """What stands there without a stored result."""
        return [not_measured(name)]


class BenchmarkTable(_OfABenchmark):
    """A table of a stored result."""

    option_spec: ClassVar[dict[str, Any]] = {"columns": directives.unchanged, "rows": directives.unchanged}

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        """Make the table."""
        (title,) = rest
        rows = find_table(name, title)
        if "rows" in self.options:
            rows = [find_row(rows, key) for key in _split(self.options["rows"])]
        columns = _split(self.options["columns"]) if "columns" in self.options else list(rows[0])
        missing = set(columns) - set(rows[0])
        if missing:
            raise LookupError(f"The table {title!r} has no columns {sorted(missing)}: there are {list(rows[0])}.")
        return [as_table(rows, columns)]


class BenchmarkTables(_OfABenchmark):
    """All tables of a stored result, or those whose titles begin with one of ``:titles:``."""

    option_spec: ClassVar[dict[str, Any]] = {"titles": directives.unchanged}

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        """Make the tables."""
        starts = _split(self.options["titles"]) if "titles" in self.options else [""]
        found = {title: rows for title, rows in tables(name).items() if title.startswith(tuple(starts))}
        if not found:
            raise LookupError(f"No table of {name!r} begins with one of {starts}: there are {sorted(tables(name))}.")
        out: list[nodes.Node] = []
        for title, rows in found.items():
            out.append(nodes.rubric("", title))
            out.append(as_table(rows, list(rows[0])) if rows else text("No rows."))
        return out


class BenchmarkMade(_OfABenchmark):
    """When, and on what, a stored result was made."""

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        """Make the sentence."""
        result = stored(name)
        machine, seeds = result["machine"], len(result.get("seeds") or [])
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        says = (
            f"Made {result['date'][:10]} by “python -m benchmarks run {name}”, "
            + (f"{seeds} seed{'s' * (seeds > 1)}, " if seeds else "")
            + f"on {machine['cpu']}, {machine['cores']} cores; {versions}."
        )
        return [nodes.paragraph("", says, classes=["made"])]

    def missing(self, name: str) -> list[nodes.Node]:
        """Nothing: the table that it belongs to says so."""
        return []


class BenchmarkPicture(_OfABenchmark):
    """A picture of a stored result."""

    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        """Make the image."""
        (picture,) = rest
        path = _runner.RESULTS / f"{picture}.png"
        if not path.is_file():
            raise LookupError(f"There is no picture {path.name} among the results.")
        here = Path(self.env.doc2path(self.env.docname)).parent
        return [nodes.image("", uri=os.path.relpath(path, here), alt=self.options["alt"], candidates={})]


class IfMeasured(_OfABenchmark):
    """What stands in it, if there is a stored result."""

    has_content = True

    def made(self, name: str, *rest: str) -> list[nodes.Node]:
        """Read the content."""
        return self.parse_content_to_nodes(allow_section_headings=True)

    def missing(self, name: str) -> list[nodes.Node]:
        """Nothing."""
        return []


class BenchmarkFigure(SphinxRole):
    """One figure in a sentence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the text."""
        try:
            name, title, key, column = _split(self.text)
            self.env.note_dependency(str(result_file(name)))
            if not is_measured(name):
                return [nodes.Text(NOT_MEASURED)], []
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
    app.add_directive("benchmark-tables", BenchmarkTables)
    app.add_directive("benchmark-made", BenchmarkMade)
    app.add_directive("benchmark-picture", BenchmarkPicture)
    app.add_directive("if-measured", IfMeasured)
    app.add_role("bench", BenchmarkFigure())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
