"""What ``spark-dlobd characterize`` does."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize.results.estimate import Estimates
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.run.interrupts import asked_to_stop
from spark_dlobd.characterize.run.output import OutputFolder
from spark_dlobd.characterize.run.preflight import available, check_cases
from spark_dlobd.characterize.run.runner import RunOptions, SweepEnd, Watcher, run_sweep
from spark_dlobd.characterize.run.sweep_tracking import SweepTracking, tracking_uri
from spark_dlobd.characterize.show.dry_run import announcement, dry_run_table
from spark_dlobd.characterize.show.progress import SweepProgress
from spark_dlobd.characterize.show.tables import result_tables, summary
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep, SweepSpec
from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_QUICK = "quick.yaml"
# A JVM for half a minute: its best compiler and its threads would take more than they give back.
_SHORT_LIVED = {"spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
_STOPPING = "Ending the running case. Once more to leave at once."


@dataclass(frozen=True)
class CommandOptions:
    """Options of the command.

    Attributes
    ----------
    run : RunOptions
        How cases run.
    mlflow : bool
        Whether the sweep is recorded in MLflow.
    mlflow_uri : str or None
        Where; by default what MLFLOW_TRACKING_URI says, else a file in the output folder.
    again : str
        The command as it was typed, for the hint how to go on.
    """

    run: RunOptions = field(default_factory=RunOptions)
    mlflow: bool = True
    mlflow_uri: str | None = None
    again: str = ""


def main(words: Sequence[str], given: Mapping[str, Any], console: Console) -> int:
    """Do what the command line asks for; return the exit code.

    Parameters
    ----------
    words : sequence of str
        ``[SWEEP.yaml] [key=value ...]``.
    given : mapping
        Options of the command by name.
    console : rich.console.Console
        Where to print.

    Raises
    ------
    DLError
        If something is wrong with what was asked for, or cannot be written.
    """
    folder: Path | None = given["output"]
    if given["page_only"] and folder is not None:
        write_page_only(folder, console)
        return 0
    if folder is None and not given["dry_run"]:
        raise ConfigurationError(
            "Where should the results go? Give --output FOLDER, with --quick for a first look; or "
            "--dry-run, --list-models, --list-data or --list-transports."
        )
    run = RunOptions(
        given["master"],
        {**(_SHORT_LIVED if given["quick"] else {}), **pairs(given["conf"])},
        given["cache_dir"],
        given["retry_failed"],
        not (given["no_explain"] or given["quick"]),
    )
    again = shlex.join(["spark-dlobd", *sys.argv[1:]])
    options = CommandOptions(run, not given["no_mlflow"], given["mlflow_uri"], again)
    sweep = read_sweep(words, given["quick"])
    if given["dry_run"]:
        show_dry_run(sweep, folder, options, console)
        return 0
    assert folder is not None
    return run_command(sweep, folder, options, console)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Turn ``["spark.executor.memory=2g"]`` into a dict.

    Examples
    --------
    >>> pairs(["spark.executor.memory=2g"])
    {'spark.executor.memory': '2g'}
    """
    found = dict(text.partition("=")[::2] for text in texts)
    if wrong := [text for text in texts if not text.partition("=")[2]]:
        raise ConfigurationError(f"--conf must look like key=value. Got {wrong[0]!r}.")
    return found


def read_sweep(words: Sequence[str], quick: bool = False) -> Sweep:
    """Return the sweep that ``[SWEEP.yaml] [key=value ...]`` describes.

    Parameters
    ----------
    words : sequence of str
        What was typed.
    quick : bool, default False
        Whether the package's own short sweep takes the place of the file.

    Raises
    ------
    ConfigurationError
        If it is not a sweep that can run.
    """
    files = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    if len(files) > 1:
        raise ConfigurationError(
            f"Give one sweep file, and settings as key=value. Got {' and '.join(files)}."
        )
    if quick and files:
        raise ConfigurationError(
            f"--quick brings a sweep of its own. Got {files[0]} too: leave one of them out; "
            "settings such as workers=1,2 go with both."
        )
    if quick:
        with resources.as_file(resources.files(__package__).joinpath(_QUICK)) as path:
            return SweepSpec.from_yaml(path, settings).expand()
    spec = SweepSpec.from_yaml(files[0], settings) if files else SweepSpec.from_settings(settings)
    return spec.expand()


def show_dry_run(
    sweep: Sweep, folder: Path | None, options: CommandOptions, console: Console
) -> None:
    """Print what would run and about how long it would take. Nothing is started or written."""
    found = OutputFolder(folder).results.read() if folder else None
    estimates = Estimates(found.records if found else ())
    done = found.done(options.run.retry_failed) if found else set()
    sweep = available(sweep, done)
    _check([case for case in sweep.cases if case.id not in done], options)
    console.print(dry_run_table(sweep, estimates.seconds, done))
    for line in announcement(sweep, estimates.seconds, done):
        _say(console, line)  # not cut: it may hold a command to copy


def write_page_only(folder: Path, console: Console) -> None:
    """Write figures, page and tables from the results in a folder."""
    output = OutputFolder(folder)
    records = output.results.read().records
    if not records:
        raise ConfigurationError(
            f"{output.results.path} has no results. Run a sweep with --output {folder} first."
        )
    with output.locked():
        output.write(records)
    _show_results(records, output, console)


def run_command(sweep: Sweep, folder: Path, options: CommandOptions, console: Console) -> int:
    """Run a sweep, write its page; return the exit code. Runs on the driver.

    Returns
    -------
    int
        0 if all of the sweep's cases have finished, 1 if some have not, 130 if it was
        interrupted.

    Raises
    ------
    DLError
        If it cannot run here, or its results cannot be written.
    """
    output = OutputFolder(folder)
    # before the folder is made; what has a result may not need what is missing
    sweep = available(sweep, _done(output, options))
    _check(_remaining(sweep, output, options), options)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(output.locked())
        remaining = _remaining(sweep, output, options)
        if skipped := len(sweep.cases) - len(remaining):
            _say(console, f"{skipped} of {len(sweep.cases)} cases have a result: skipped.")
        _announce(sweep, output, options, console)
        output.describe(sweep)
        stop = stack.enter_context(asked_to_stop(lambda: _say(console, _STOPPING)))
        tracking = stack.enter_context(_tracking(sweep, output, options, console))
        with SweepProgress(remaining, console) as progress:
            watchers: list[Watcher] = [progress, *([tracking] if tracking else [])]
            end = run_sweep(sweep, output, scratch, options.run, watchers, stop)
        if tracking and end.interrupted:
            tracking.status = "KILLED"
        records = output.results.read().records
        if records:
            output.write(records)
            if tracking:
                tracking.outputs()
            _show_results(records, output, console)
    return _conclude(sweep, records, end, options, console)


def _remaining(sweep: Sweep, output: OutputFolder, options: CommandOptions) -> list[Case]:
    done = _done(output, options)
    return [case for case in sweep.cases if case.id not in done]


def _done(output: OutputFolder, options: CommandOptions) -> set[str]:
    return output.results.read().done(options.run.retry_failed)


def _announce(
    sweep: Sweep, output: OutputFolder, options: CommandOptions, console: Console
) -> None:
    """Say before the first case what runs and for about how long, and what does not."""
    found = output.results.read()
    done = found.done(options.run.retry_failed)
    for line in announcement(sweep, Estimates(found.records).seconds, done):
        _say(console, line)


def _check(cases: Sequence[Case], options: CommandOptions) -> None:
    check_cases(cases, options.run.master, options.run.cache_dir)


def _tracking(
    sweep: Sweep, output: OutputFolder, options: CommandOptions, console: Console
) -> contextlib.AbstractContextManager[SweepTracking | None]:
    if not options.mlflow:
        return contextlib.nullcontext()
    uri = tracking_uri(options.mlflow_uri, output.path)
    return SweepTracking(sweep, output, uri, lambda text: _say(console, text))


def _show_results(records: Sequence[CaseRecord], output: OutputFolder, console: Console) -> None:
    for table in result_tables(records):
        console.print(summary(table))
    _say(console, f"Page: {output.page}")


def _conclude(
    sweep: Sweep,
    records: Sequence[CaseRecord],
    end: SweepEnd,
    options: CommandOptions,
    console: Console,
) -> int:
    if end.interrupted:
        _say(console, f"Interrupted. What has finished stays; to go on:\n  {options.again}")
        return INTERRUPTED
    ids = {case.id for case in sweep.cases}
    bad = [record for record in records if record.case.id in ids and not record.finished]
    if bad:
        _say(console, f"{len(bad)} of {len(ids)} cases did not finish. The page says why, "
             "--retry-failed runs them again.")  # fmt: skip
    return 1 if bad else 0


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
