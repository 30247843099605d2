"""Pages: the operators' blocks parse, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.pages import ROOT, text

BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", text("operators.md"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("kind", "block"), BLOCKS)
def test_block_parses(kind: str, block: str) -> None:
    if kind == "python":
        compile(block, "operators.md", "exec")
        return
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
)


def anchors(page: Path) -> set[str]:
    """Of its titles, as a browser of the repository makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []
