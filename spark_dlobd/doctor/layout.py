"""The doctor's report as lines for a terminal: no name, path or command is ever broken. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from spark_dlobd.doctor.finding import Finding, Verdict

_STYLES = {
    "ok": "green",
    "absent": "yellow",
    "failed": "bold red",
    "works": "green",
    "needs": "yellow",
}
_STATE_WIDTH = 8
_INDENT = " " * _STATE_WIDTH
_NAME_WIDTH = 17
_LEAST_WIDTH = 20


def report_lines(
    findings: Sequence[Finding], verdicts: Sequence[Verdict], master: str | None, width: int
) -> Iterator[Text]:
    """Lay findings and verdicts out; commands have lines of their own.

    Parameters
    ----------
    findings : sequence of Finding
        In their order.
    verdicts : sequence of Verdict
        Come last.
    master : str or None
        Where the verdicts hold; None for this machine.
    width : int
        Characters of a line; what cannot be broken may be longer.
    """
    fix = ""
    for finding in findings:
        yield from _row(finding.state, finding.name, _found(finding), _NAME_WIDTH, width)
        if finding.state != "ok":
            news = finding.fix if finding.fix != fix else ""
            for line in _wrapped(news, width - _STATE_WIDTH):
                yield Text(f"{_INDENT}{line}", style="italic")
            fix = finding.fix
            yield from _commands(finding.commands)
    yield Text("")
    yield Text(f"Backends on {master or 'this machine'}", style="bold")
    name_width = max((len(verdict.backend) for verdict in verdicts), default=0) + 2
    told: set[tuple[str, ...]] = set()
    for verdict in verdicts:
        state, _, text = verdict.text.partition(" ")
        yield from _row(state, verdict.backend, text, name_width, width)
        if verdict.commands not in told:
            yield from _commands(verdict.commands)
        told.add(verdict.commands)


def _found(finding: Finding) -> str:
    if finding.state != "failed" or not finding.expected:
        return finding.found
    return f"{finding.found} (expected: {finding.expected})"


def _row(state: str, name: str, text: str, name_width: int, width: int) -> Iterator[Text]:
    before = _STATE_WIDTH + name_width
    first, *others = _wrapped(text, width - before) or [""]
    line = Text(f"{state:<{_STATE_WIDTH}}", style=_STYLES[state])
    line.append(Text(f"{name:<{name_width}}{first}".rstrip(), style="default"))
    yield line
    for other in others:
        yield Text(" " * before + other)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, _LEAST_WIDTH), break_long_words=False, break_on_hyphens=False
    )


def _commands(commands: Sequence[str]) -> Iterator[Text]:
    for command in commands:
        yield Text(f"{_INDENT}  {command}", style="bold")
