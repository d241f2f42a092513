"""The README runs as written, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_block_of_the_readme_runs_and_prints_what_it_says():
    blocks = re.findall(r"```(python|text)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    assert len(blocks) >= 4
    namespace: dict = {}
    for (_, code), (_, said) in zip(blocks[::2], blocks[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        assert printed.getvalue().strip() == said.strip()
