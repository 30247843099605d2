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


@main.command()
@click.option("--list-models", is_flag=True, help="Show the models, with layers and weights.")
@click.option("--list-data", is_flag=True, help="Show the data sets and where they come from.")
@click.option("--list-transports", is_flag=True, help="Show the ways for gradients to travel.")
def characterize(list_models: bool, list_data: bool, list_transports: bool) -> None:
    """Compare backends, transports and numbers of workers."""
    from spark_dlobd.characterize import listing

    wanted = {
        listing.models_table: list_models,
        listing.data_table: list_data,
        listing.transports_table: list_transports,
    }
    if not any(wanted.values()):
        raise click.UsageError("Give --list-models, --list-data or --list-transports.")
    for table, chosen in wanted.items():
        if chosen:
            Console().print(table())


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
