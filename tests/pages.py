"""Blocks of the documentation, so that tests run what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_DOCS = ROOT / "docs"


def text(page: str) -> str:
    """A page of docs/, whole."""
    return (_DOCS / page).read_text()


def block(page: str, name: str) -> str:
    """Text of the block that follows the comment ``<!-- block: NAME -->`` on a page."""
    pattern = rf"<!-- block: {re.escape(name)} -->\n```\w+\n(.*?)```"
    found = re.findall(pattern, text(page), re.DOTALL)
    assert len(found) == 1, f"docs/{page} has {len(found)} blocks named {name!r}"
    return str(found[0])
