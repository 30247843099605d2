"""The command ``spark-dlobd``."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spark_dlobd.doctor import diagnose, verdicts
from spark_dlobd.doctor.layout import report_lines

_FILE_WIDTH = 120


@click.group()
@click.version_option(package_name="spark-dlobd")
def main() -> None:
    """Keras models in Spark ML Pipelines."""


@main.command()
@click.option("--master", help="Also start Spark on this master URL and ask every executor.")
@click.option("--conf", multiple=True, metavar="KEY=VALUE", help="Setting of Spark; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Longest wait for imports, Horovod, UCX and Spark with its executors, each, in seconds.",
)
@click.pass_context
def doctor(
    context: click.Context,
    master: str | None,
    conf: tuple[str, ...],
    as_json: bool,
    timeout_s: float,
) -> None:
    """Check this machine, and with --master a cluster, against what the package needs.

    With --master one task runs on each executor and compares its Python, versions and
    imports with those here. Ends with what works: a verdict on each backend. Exits with 1
    if something must be put right. What is merely absent, such as GPUs or Horovod, is no
    fault.
    """
    settings = dict(_setting(text) for text in conf)
    if settings and master is None:
        raise click.UsageError("--conf is for the session that --master starts: give both.")
    findings = diagnose(master, timeout_s, settings)
    judged = verdicts(findings)
    ok = all(finding.state != "failed" for finding in findings)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        backends = [dataclasses.asdict(verdict) for verdict in judged]
        click.echo(json.dumps({"ok": ok, "findings": rows, "backends": backends}, indent=2))
    else:
        console = Console()
        for line in report_lines(findings, judged, master, console.width):
            console.print(line, soft_wrap=True)  # the terminal wraps, so that copies stay whole
    context.exit(0 if ok else 1)


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise click.UsageError(f"--conf wants KEY=VALUE. Got {text!r}.")
    return key, value


@main.command()
@click.argument("sweep", nargs=-1, metavar="[SWEEP.yaml] [KEY=VALUE ...]")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results."
)
@click.option("--quick", is_flag=True, help="A first look in 2 to 3 minutes; needs no file.")
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
    backends=horovod,shuffle workers=1,2 epochs=2, or by both; --quick brings a
    short one. Backends that are not installed are left out and named. Results are kept in the
    output folder: started again, a sweep goes on where it stopped. Exits with 1 if a
    case did not finish or results cannot be written, with 2 if it cannot run as it is
    described, with 130 if it was interrupted.
    """
    from spark_dlobd.characterize import command
    from spark_dlobd.characterize.show import listing
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


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="examples")
@click.pass_context
def examples(context: click.Context, folder: Path) -> None:
    """Write the example programs and sweeps to FOLDER, ./examples by default.

    Nothing is overwritten: exits with 2 if one of the files is there already.
    """
    from spark_dlobd.errors import DLError
    from spark_dlobd.example_files import FIRST, write_examples

    try:
        written = write_examples(folder)
    except DLError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(2)
    for path in written:
        click.echo(path)
    click.echo(
        f"README.md says what each of them shows. Start with\n\n  "
        f"{python_command()} {shlex.quote(str(folder / FIRST))}"
    )


@main.command("build-horovod")
@click.option("--rebuild", is_flag=True, help="Compile also where there is a wheel already.")
@click.pass_context
def build_horovod(context: click.Context, rebuild: bool) -> None:
    """Build Horovod's wheel, once per machine, and install it here.

    PyPI has no wheel of it. The first build takes minutes and needs g++ and make; the
    wheel is kept in ~/.cache/spark-dlobd/wheels. Exits with 1 if it cannot be built.
    """
    from spark_dlobd import horovod_build
    from spark_dlobd.errors import DLError

    try:
        click.echo(horovod_build.build_horovod(rebuild))
    except DLError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(1)


def python_command() -> str:
    """How to start the interpreter of this environment: by name where that leads to it."""
    found = shutil.which("python")
    return "python" if found == sys.executable else shlex.quote(sys.executable)
