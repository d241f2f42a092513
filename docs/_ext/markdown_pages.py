"""Pages of Markdown files: what the experiments found, and the stored result of each benchmark.

``.. findings::`` puts ``benchmarks/experiments/findings/*.md`` on a page, a section each; ``.. stored-result:: noise``
puts ``benchmarks/results/noise.md`` there, or says that there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import markdown_nodes
from benchmark_tables import not_measured
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from benchmarks import _runner

FINDINGS = Path(_runner.__file__).parent / "experiments" / "findings"


class _Markdown(SphinxDirective):
    """What reads Markdown files."""

    def read(self, source: Path) -> list[nodes.Node]:
        """The sections of a file."""
        self.env.note_dependency(str(source))
        try:
            return markdown_nodes.read(source, Path(self.env.doc2path(self.env.docname)), self.state.document)
        except ValueError as error:
            raise self.error(str(error)) from error


class Findings(_Markdown):
    """All of them, in the order of their names."""

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        found = [section for source in sorted(FINDINGS.glob("*.md")) for section in self.read(source)]
        return found or [nodes.paragraph("", "Nothing has been written down yet.", classes=["made"])]


class StoredResult(_Markdown):
    """What a benchmark found, without its title, which the page has."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        source = _runner.RESULTS / f"{self.arguments[0]}.md"
        if not source.is_file():
            return [not_measured(self.arguments[0])]
        whole = nodes.Element("", *self.read(source))
        (top,) = whole.children
        return top.children[1:]


def write(folder: Path) -> None:
    """Write a page for each benchmark, and one that lists them, each only if it is another than before."""
    folder.mkdir(exist_ok=True)
    pages = {"index": _INDEX + "".join(f"   {name}\n" for name in _runner.NAMES)}
    for name in _runner.NAMES:
        pages[name] = f"{name}\n{'=' * len(name)}\n\n.. stored-result:: {name}\n"
    for name, content in pages.items():
        target = folder / f"{name}.rst"
        if not target.is_file() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")


_INDEX = """\
All results
===========

What each benchmark found, as it was stored. ``python -m benchmarks run NAME`` makes one anew.

.. toctree::
   :maxdepth: 1

"""


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("findings", Findings)
    app.add_directive("stored-result", StoredResult)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
