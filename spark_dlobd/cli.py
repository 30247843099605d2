"""The command ``spark-dlobd``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spark_dlobd.doctor import Finding, diagnose

_STYLES = {"ok": "green", "absent": "yellow", "failed": "bold red"}


@click.group()
@click.version_option(package_name="spark-dlobd")
def main() -> None:
    """Keras models in Spark ML Pipelines."""


@main.command()
@click.option("--master", help="Also start Spark on this master URL and count its slots.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Longest wait for Horovod, UCX and Spark, each, in seconds.",
)
@click.pass_context
def doctor(context: click.Context, master: str | None, as_json: bool, timeout_s: float) -> None:
    """Check this machine against what the package needs.

    Exits with 1 if something must be put right. What is merely absent, such as
    GPUs or Horovod, is no fault.
    """
    findings = diagnose(master, timeout_s)
    ok = all(finding.state != "failed" for finding in findings)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": ok, "findings": rows}, indent=2))
    else:
        Console().print(as_table(findings))
    context.exit(0 if ok else 1)


def as_table(findings: Sequence[Finding]) -> Table:
    """Lay findings out for a terminal; a row that asks for action says which."""
    table = Table(show_lines=False)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("expected", overflow="fold")
    table.add_column("state", no_wrap=True)
    for finding in findings:
        found = Text(finding.found)
        if finding.fix and finding.state != "ok":
            found.append(f"\nfix: {finding.fix}", style="italic")
        state = Text(finding.state, style=_STYLES[finding.state])
        table.add_row(Text(finding.name), found, Text(finding.expected), state)
    return table
