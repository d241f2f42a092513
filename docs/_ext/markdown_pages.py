"""Pages of Markdown files: the stored result of each benchmark.

``.. stored-result:: noise`` puts ``benchmarks/results/noise.md`` on a page, or says that there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import markdown_nodes
from benchmark_tables import not_measured
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from benchmarks import _runner


class StoredResult(SphinxDirective):
    """What a benchmark found, without its title, which the page has."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        source = _runner.RESULTS / f"{self.arguments[0]}.md"
        if not source.is_file():
            return [not_measured(self.arguments[0])]
        self.env.note_dependency(str(source))
        try:
            sections = markdown_nodes.read(source, Path(self.env.doc2path(self.env.docname)), self.state.document)
        except ValueError as error:
            raise self.error(str(error)) from error
        (top,) = nodes.Element("", *sections).children
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
    """Register the directive."""
    app.add_directive("stored-result", StoredResult)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
