"""The command ``spark-dlobd``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spark_dlobd.doctor import Finding, diagnose

_FILE_WIDTH = 120
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
@click.argument("sweep", nargs=-1, metavar="[SWEEP.yaml] [KEY=VALUE ...]")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results."
)
@click.option("--dry-run", is_flag=True, help="Show what would run and about how long.")
@click.option("--retry-failed", is_flag=True, help="Run cases again that did not finish.")
@click.option("--no-explain", is_flag=True, help="Predict nothing to compare results with.")
@click.option("--master", help="Master URL. Default: local, with a slot a worker.")
@click.option("--conf", multiple=True, metavar="KEY=VALUE", help="Setting of Spark; repeatable.")
@click.option("--cache-dir", help="URL of a folder that all executors of a cluster reach.")
@click.option("--page-only", is_flag=True, help="Only make the page of the results again.")
@click.option("--mlflow-uri", help="Default: as MLflow is configured, else a file in the folder.")
@click.option("--no-mlflow", is_flag=True, help="Do not record the sweep in MLflow.")
@click.option("--list-models", is_flag=True, help="Show the models, with layers and weights.")
@click.option("--list-data", is_flag=True, help="Show the data sets and where they come from.")
@click.option("--list-transports", is_flag=True, help="Show the ways for gradients to travel.")
@click.pass_context
def characterize(context: click.Context, /, sweep: tuple[str, ...], **options: Any) -> None:
    """Compare backends, transports and numbers of workers.

    The sweep is described by a YAML file, by settings such as models=lenet
    backends=horovod,shuffle workers=1,2 epochs=2, or by both. Results are kept in the
    output folder: started again, a sweep goes on where it stopped. Exits with 1 if a
    case did not finish or results cannot be written, with 2 if it cannot run as it is
    described, with 130 if it was interrupted.
    """
    from spark_dlobd.characterize import command, listing
    from spark_dlobd.errors import ConfigurationError, DLError

    tables = {
        listing.models_table: options["list_models"],
        listing.data_table: options["list_data"],
        listing.transports_table: options["list_transports"],
    }
    if any(tables.values()):
        for table, chosen in tables.items():
            if chosen:
                Console().print(table())
        return
    console = Console()
    if not console.is_terminal:  # a file has no edge that tables must keep to
        console = Console(width=max(console.width, _FILE_WIDTH))
    try:
        context.exit(command.main(sweep, options, console))
    except DLError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(2 if isinstance(error, ConfigurationError) else 1)


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
