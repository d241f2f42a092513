"""Markdown as docutils nodes: CommonMark with tables, read by markdown-it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from _nodes import table
from docutils import nodes
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_FIGURE = re.compile(r"[0-9+−≤≥–<>-]")


def read(source: Path, page: Path, document: nodes.document) -> list[nodes.Node]:
    """A Markdown file as sections of a page.

    Parameters
    ----------
    source : Path
        The file. Pictures are found beside it, links to other files become their text.
    page : Path
        The page that it is put into.
    document : docutils.nodes.document
        Where sections get their anchors.

    Returns
    -------
    nodes : list of docutils nodes
        Sections, and what stands before the first heading.
    """
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(source.read_text(encoding="utf-8")))
    top = nodes.Element()
    open_sections: list[tuple[int, nodes.Element]] = [(0, top)]
    reader = _Reader(source, page)
    for child in tree.children:
        if child.type == "heading":
            level = int(child.tag[1:])
            while open_sections[-1][0] >= level:
                open_sections.pop()
            title = nodes.title("", "", *reader.inline(child.children[0]))
            section = nodes.section("", title, names=[nodes.fully_normalize_name(title.astext())])
            open_sections[-1][1].append(section)
            document.note_implicit_target(section, section)
            open_sections.append((level, section))
        else:
            open_sections[-1][1].extend(reader.block(child))
    return list(top.children)


class _Reader:
    """Blocks and inlines of one file."""

    def __init__(self, source: Path, page: Path) -> None:
        self.source, self.page = source, page

    def blocks(self, parent: SyntaxTreeNode) -> list[nodes.Node]:
        """What stands in a list item or a quotation."""
        return [made for child in parent.children for made in self.block(child)]

    def block(self, node: SyntaxTreeNode) -> list[nodes.Node]:
        """One block."""
        if node.type == "paragraph":
            inline = self.inline(node.children[0])
            if len(inline) == 1 and isinstance(inline[0], nodes.image):
                return inline  # a picture of its own
            return [nodes.paragraph("", "", *inline)]
        if node.type in ("fence", "code_block"):
            return [nodes.literal_block(node.content, node.content.rstrip("\n"), language=node.info or "text")]
        if node.type == "bullet_list":
            return [nodes.bullet_list("", *self._items(node))]
        if node.type == "ordered_list":
            return [nodes.enumerated_list("", *self._items(node), enumtype="arabic", suffix=".")]
        if node.type == "blockquote":
            return [nodes.block_quote("", *self.blocks(node))]
        if node.type == "table":
            return [self._table(node)]
        if node.type == "hr":
            return []  # headings part what there is
        raise ValueError(f"{self.source.name}: a {node.type!r} of Markdown has no place in the documentation.")

    def _items(self, node: SyntaxTreeNode) -> list[nodes.Node]:
        return [nodes.list_item("", *self.blocks(item)) for item in node.children]

    def _table(self, node: SyntaxTreeNode) -> nodes.table:
        head, *body = (row for part in node.children for row in part.children)
        rows = [[nodes.paragraph("", "", *self.inline(cell.children[0])) for cell in row.children] for row in body]
        texts = [[cell.astext() for cell in row] for row in rows]
        numeric = [all(not text or _FIGURE.match(text) for text in column) for column in zip(*texts, strict=True)]
        return table([cell.children[0].content for cell in head.children], rows, numeric)

    def inline(self, node: SyntaxTreeNode) -> list[nodes.Node]:
        """The inlines in a node."""
        return [made for child in node.children for made in self._one(child)]

    def _one(self, node: SyntaxTreeNode) -> list[nodes.Node]:
        if node.type in ("text", "html_inline"):  # HTML is shown as it is typed
            return [nodes.Text(node.content)] if node.content else []
        if node.type in ("softbreak", "hardbreak"):
            return [nodes.Text("\n")]
        if node.type == "code_inline":
            return [nodes.literal("", node.content)]
        if node.type == "strong":
            return [nodes.strong("", "", *self.inline(node))]
        if node.type == "em":
            return [nodes.emphasis("", "", *self.inline(node))]
        if node.type == "link":
            target = str(node.attrs["href"])
            if not target.startswith(("http://", "https://")):
                return self.inline(node)
            return [nodes.reference("", "", *self.inline(node), refuri=target)]
        if node.type == "image":
            path = (self.source.parent / str(node.attrs["src"])).resolve()
            if not path.is_file():
                raise ValueError(f"{self.source.name}: there is no picture {node.attrs['src']}.")
            uri = Path(os.path.relpath(path, self.page.parent)).as_posix()
            return [nodes.image("", uri=uri, alt=node.content, candidates={})]
        raise ValueError(f"{self.source.name}: a {node.type!r} of Markdown has no place in the documentation.")
