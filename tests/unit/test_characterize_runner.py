from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from spark_dlobd.characterize import command
from spark_dlobd.characterize.results.estimate import Estimates, case_step_seconds
from spark_dlobd.characterize.results.machine import hosts, machine_facts
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.run import preflight, runner, training_case
from spark_dlobd.characterize.run.case_process import Ended, marked_processes, run_process
from spark_dlobd.characterize.run.case_request import CaseRequest, read_answer, write_answer
from spark_dlobd.characterize.run.case_session import session_conf
from spark_dlobd.characterize.run.interrupts import asked_to_stop
from spark_dlobd.characterize.run.output import OutputFolder
from spark_dlobd.characterize.run.patience import Helper
from spark_dlobd.characterize.run.runner import RunOptions, SweepEnd, run_sweep
from spark_dlobd.characterize.run.sweep_tracking import SweepTracking, tracking_uri
from spark_dlobd.characterize.show.progress import SweepProgress
from spark_dlobd.characterize.show.tables import markdown, summary_text
from spark_dlobd.characterize.subjects.models import build_model, get_model, model_names
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep
from spark_dlobd.errors import (
    ConfigurationError,
    MissingDependencyError,
    PersistenceError,
    ResourceError,
)
from spark_dlobd.training.work import multiply_adds
from tests.unit.characterize_records import failed, made

CASES = tuple(
    Case("softmax", "generated-mnist", "local", "process", 1, repeat=r, time_limit_s=20)
    for r in (1, 2, 3)
)
SWEEP = Sweep("three", CASES)

ANSWERS = """
import json, pathlib, sys
request = pathlib.Path(sys.argv[1])
case = json.loads(request.read_text())["case"]
answer = {"data": {}, "report": {"total_seconds": 2.0}, "test_accuracy": 0.5, "test_seconds": 1.0}
print("repeat", case["repeat"])
"""
WRITES = "(request.parent / 'answer.json').write_text(json.dumps(answer))\n"


def python(code: str) -> Callable[[Path], list[str]]:
    """Command of a case that runs `code` with its request."""
    return lambda request: [sys.executable, "-c", ANSWERS + code, str(request)]


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


def run(output: OutputFolder, code: str = WRITES, **arguments: Any) -> SweepEnd:
    given = {"sweep": SWEEP, "options": RunOptions(), "command": python(code), **arguments}
    with output.locked() as scratch:
        end = run_sweep(given.pop("sweep"), output, scratch, given.pop("options"), **given)
        assert not list(scratch.iterdir())
    assert not scratch.exists()
    return end


def test_each_case_has_a_result_and_a_log(output: OutputFolder) -> None:
    end = run(output)
    assert not end.interrupted
    records = output.results.read().records
    assert [record.case for record in records] == list(CASES)
    assert {record.status for record in records} == {"finished"}
    assert [record.seconds for record in records] == [3.0, 3.0, 3.0]
    assert all(record.wall_seconds and record.started for record in records)
    assert records[0].machine["cores"] >= 1
    assert output.log(CASES[1]).read_text() == "repeat 2\n"


def test_finished_cases_do_not_run_again(output: OutputFolder) -> None:
    run(output, sweep=replace(SWEEP, cases=CASES[:2]))
    assert [record.case.repeat for record in run(output).ran] == [3]
    assert run(output).ran == ()


def test_a_case_that_fails_does_not_stop_the_sweep(output: OutputFolder) -> None:
    fails = "if case['repeat'] == 2: answer = {'error': 'DataError: cut off\\n\\nTraceback'}\n"
    run(output, fails + WRITES)
    records = output.results.read().records
    assert [record.status for record in records] == ["finished", "failed", "finished"]
    assert records[1].error == "DataError: cut off\n\nTraceback"


def test_failed_cases_run_again_when_asked(output: OutputFolder) -> None:
    run(output, "if case['repeat'] == 2: answer = {'error': 'x'}\n" + WRITES)
    assert run(output).ran == ()
    again = run(output, options=RunOptions(retry_failed=True)).ran
    assert [(record.case.repeat, record.status) for record in again] == [(2, "finished")]
    assert {record.status for record in output.results.read().records} == {"finished"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('out of luck')", r"ended with exit code 1 .*\n.*repeat 1\nout of luck"),
        ("import os; os.kill(os.getpid(), 9)", r"signal 9 \(SIGKILL; .*memory runs out\)"),
    ],
)
def test_a_process_without_a_result_has_its_log_shown(
    output: OutputFolder, code: str, said: str
) -> None:
    record = run(output, code, sweep=replace(SWEEP, cases=CASES[:1])).ran[0]
    assert record.status == "failed"
    assert re.search(said, record.error or ""), record.error


def test_a_case_that_hangs_is_ended_at_its_limit(output: OutputFolder) -> None:
    cases = (replace(CASES[0], time_limit_s=1.0), CASES[1])
    hangs = "import time\nif case['repeat'] == 1: print('stuck', flush=True); time.sleep(60)\n"
    records = run(output, hangs + WRITES, sweep=replace(SWEEP, cases=cases)).ran
    assert [record.status for record in records] == ["timed out", "finished"]
    assert "not done after its time limit of 1 s (time_limit_s)" in (records[0].error or "")
    assert "stuck" in (records[0].error or "")


def test_a_result_counts_although_leaving_took_too_long(output: OutputFolder) -> None:
    sweep = replace(SWEEP, cases=(replace(CASES[0], time_limit_s=1.0),))
    stays = WRITES + "import time; time.sleep(60)"
    assert [record.status for record in run(output, stays, sweep=sweep).ran] == ["finished"]


def test_an_interrupted_case_has_no_result(output: OutputFolder) -> None:
    log = output.log(CASES[1])
    waits = "import time\nif case['repeat'] == 2: print('here', flush=True); time.sleep(60)\n"

    def interrupted() -> bool:
        return log.exists() and "here" in log.read_text()

    end = run(output, waits + WRITES, interrupted=interrupted)
    assert end.interrupted
    assert [record.case.repeat for record in output.results.read().records] == [1]
    assert [record.case.repeat for record in run(output).ran] == [2, 3]


def test_a_full_disk_ends_the_sweep_and_no_case_is_blamed(output: OutputFolder) -> None:
    text = "answer = {'error': 'OSError: [Errno 28] No space left on device'}\n"
    fails = "if case['repeat'] == 2: " + text
    with pytest.raises(PersistenceError, match=r"disk became full while .*r2-.* goes on there"):
        run(output, fails + WRITES)
    assert [record.case.repeat for record in run(output).ran] == [2, 3]


def test_results_that_cannot_be_written_end_the_sweep(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(PersistenceError, match=r"No space left.*goes on there"):
            run(output)
    assert [record.case.repeat for record in run(output).ran] == [1, 2, 3]


def test_logs_that_cannot_be_written_end_the_sweep(output: OutputFolder) -> None:
    output.path.mkdir()
    (output.path / "logs").write_text("a file where the folder should be")
    with pytest.raises(PersistenceError, match=r"The log .* cannot be written.*goes on there"):
        run(output)


def test_two_sweeps_do_not_share_a_folder(output: OutputFolder) -> None:
    with (
        output.locked(),
        pytest.raises(PersistenceError, match="Another sweep is at work"),
        output.locked(),
    ):
        pass


def test_temporary_files_of_a_killed_sweep_are_removed(output: OutputFolder) -> None:
    child = os.fork()
    if child == 0:
        with output.locked() as scratch:
            (scratch / "left").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = Path(json.loads((output.path / ".lock").read_text())["scratch"])
    assert (left / "left").exists()
    with output.locked():
        assert not left.exists()


def test_only_own_temporary_folders_are_removed(output: OutputFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    output.path.mkdir()
    for note in (json.dumps({"scratch": str(mine)}), '{"scr', "[]"):
        (output.path / ".lock").write_text(note)
        with output.locked():
            assert mine.exists()


def test_nothing_of_a_process_is_left(tmp_path: Path) -> None:
    # a grandchild in a session of its own that ignores the polite end
    grandchild = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    code = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {grandchild + '; time.sleep(60)'!r}]\n"
        "child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    log = tmp_path / "log"
    ended = run_process(
        [sys.executable, "-c", code], log, 60, lambda: log.read_text().endswith("\n"), grace_s=1
    )
    assert ended.how == "interrupted"
    assert ended.returncode == -signal.SIGTERM
    pid = int(log.read_text())
    # whoever adopted it may not have collected it yet
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_processes_are_found_by_their_mark(tmp_path: Path) -> None:
    assert marked_processes("nobody has this mark") == []


def test_a_process_that_ends_by_itself(tmp_path: Path) -> None:
    ended = run_process(["sh", "-c", "exit 3"], tmp_path / "log", 60)
    assert (ended.how, ended.text) == ("by itself", "exit code 3")
    assert Ended("timed out", -15, 1.0).text == "signal 15 (SIGTERM)"


def test_signals_become_a_question() -> None:
    told = []
    with asked_to_stop(lambda: told.append(1)) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and told == [1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_request_survives_its_file(tmp_path: Path) -> None:
    request = CaseRequest(
        CASES[0], tmp_path, "/data", "local[2]", {"spark.a": "b"}, "file:///cache"
    )
    assert CaseRequest.read(request.write()) == request


def test_an_answer_is_whole_or_not_there(tmp_path: Path) -> None:
    assert read_answer(tmp_path) is None
    (tmp_path / "answer.json.part").write_text('{"da')
    assert read_answer(tmp_path) is None
    write_answer(tmp_path, {"test_accuracy": float("nan")})
    assert read_answer(tmp_path) == {"test_accuracy": "NaN"}


@pytest.mark.parametrize(
    ("master", "link", "here"),
    [
        (None, None, True),
        ("local[4]", None, True),
        ("local-cluster[2,1,1024]", None, True),
        (None, 100, True),
        ("spark://host:7077", None, False),
    ],
)
def test_what_is_set_for_workers_on_this_machine(
    tmp_path: Path, master: str | None, link: int | None, here: bool
) -> None:
    case = replace(CASES[0], link_mbit=link)
    request = CaseRequest(case, tmp_path, master=master)
    assert request.on_this_machine is here
    conf = session_conf(request)
    assert ("spark.local.dir" in conf) is here
    assert ("spark.driver.host" in conf) is (here and link is None)


def test_machine_is_told_honestly() -> None:
    facts = machine_facts(CASES[0])
    assert facts["cpu"] and facts["gpus"] and facts["cores"] >= 1 and "pyspark" in facts
    assert facts["hosts"] == "this machine alone; all workers share its cores"
    assert "emulated on this machine" in hosts(replace(CASES[0], link_mbit=100), None)
    assert hosts(CASES[0], "spark://me:secret@host:7077").startswith("the cluster of spark://host")


def cases(**changes: Any) -> list[Case]:
    return [replace(Case("softmax", "mnist", "horovod", "gloo", 2), **changes)]


def test_too_few_slots_are_refused_before_anything_runs() -> None:
    with pytest.raises(ResourceError, match=r"up to 4 slots .* local\[2\] offers 2"):
        preflight.check_cases(cases(workers=4), "local[2]")
    preflight.check_cases(cases(workers=4), "spark://host:7077", "hdfs:///tmp/rows")
    preflight.check_cases(cases(workers=4), None)


def test_a_cluster_needs_a_folder_that_all_reach() -> None:
    with pytest.raises(ConfigurationError, match=r"spark://host:7077 .* Give --cache-dir"):
        preflight.check_cases(cases(), "spark://host:7077")


def test_emulated_hosts_need_root_and_no_other_master(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used with --master local\[2\]"):
        preflight.check_cases(cases(link_mbit=100), "local[2]")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ResourceError, match="need root"):
        preflight.check_cases(cases(link_mbit=100))


WITHOUT_HOROVOD = "horovod: it is not installed, `spark-dlobd build-horovod` builds and installs it"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Programs and packages that seem to be here."""
    here: set[str] = set()

    def find_mpirun() -> str:
        if "mpirun" not in here:
            raise MissingDependencyError("mpirun is neither here nor there.")
        return "/bin/mpirun"

    monkeypatch.setattr(preflight, "find_mpirun", find_mpirun)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in here else None)
    return here


def backends_of(settings: str, done: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Transports that would run, and what is said of the others."""
    sweep = preflight.available(command.read_sweep(settings.split()), done)
    return [case.transport for case in sweep.cases], list(sweep.left_out)


ALL = "models=softmax backends=horovod,parameter_server,shuffle workers=2"


def test_backends_that_are_not_installed_are_left_out_and_named(installed: set[str]) -> None:
    assert backends_of(ALL) == (["grpc", "spark"], [WITHOUT_HOROVOD])
    mpi = f"{ALL} transports=gloo,mpi-tcp"
    assert backends_of(mpi) == (["grpc", "spark"], [WITHOUT_HOROVOD])
    installed.add("horovod")
    assert backends_of(mpi) == (
        ["gloo", "grpc", "spark"],
        ["mpi-tcp of horovod: mpirun is neither here nor there"],
    )
    installed.add("mpirun")
    assert backends_of(mpi) == (["gloo", "mpi-tcp", "grpc", "spark"], [])


def test_nothing_left_to_run_is_an_error(installed: set[str]) -> None:
    with pytest.raises(MissingDependencyError, match=r"Nothing .* build-horovod.*local,shuffle"):
        backends_of("models=softmax backends=horovod")


def test_what_has_a_result_does_not_need_what_is_missing(installed: set[str]) -> None:
    settings = "models=softmax backends=horovod,shuffle workers=1,2"
    one, two, *_ = command.read_sweep(settings.split()).cases
    assert (one.workers, two.workers) == (1, 2)
    assert backends_of(settings, {one.id}) == (["gloo", "spark", "spark"], [WITHOUT_HOROVOD])
    assert backends_of(settings, {one.id, two.id}) == (["gloo", "gloo", "spark", "spark"], [])


def test_a_repetition_takes_as_long_as_the_last_one() -> None:
    record = replace(made("gloo", 2, 5.0), wall_seconds=40.0)
    estimates = Estimates([record], cores=2)
    assert estimates.seconds(replace(record.case, repeat=2)) == 40.0


def test_other_rows_are_scaled_by_what_the_guess_got_wrong() -> None:
    case = Case("lenet", "generated-mnist", "horovod", "gloo", 2, rows=1000, test_rows=100)
    guess = Estimates([], cores=2)
    record = CaseRecord(case, "finished", wall_seconds=2 * guess.seconds(case))
    longer = replace(case, rows=4000, epochs=3)
    assert Estimates([record], cores=2).seconds(longer) == pytest.approx(2 * guess.seconds(longer))
    other = replace(longer, backend="shuffle", transport="spark")
    assert Estimates([record], cores=2).seconds(other) == guess.seconds(other)


def test_guess_follows_rows_workers_and_links() -> None:
    case = Case("lenet", "mnist", "horovod", "gloo", 1, rows=6000, test_rows=1000)
    guess = Estimates([], cores=2).seconds
    assert guess(replace(case, workers=2)) < guess(case) < guess(replace(case, rows=12_000))
    assert guess(replace(case, workers=4)) == pytest.approx(guess(replace(case, workers=2)), 0.01)
    assert guess(replace(case, data="generated-mnist", rows=10**9)) == case.time_limit_s
    # of two workers each sends its 431,080 weights of four bytes once, over 12.5 MB/s, and 3 ms
    linked = replace(case, workers=2, link_mbit=100)
    assert case_step_seconds(linked) == pytest.approx(0.003 + 4 * 431_080 / 12.5e6)
    assert case_step_seconds(replace(linked, compression="fp16")) < case_step_seconds(linked)


def shown(records: list[CaseRecord], terminal: bool) -> str:
    import io

    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with SweepProgress([record.case for record in records], console) as progress:
        for number, record in enumerate(records):
            progress.started(record.case, tuple(records[:number]))
            progress.ended(record)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_line_a_case_where_there_is_no_terminal() -> None:
    good = made("gloo", 1, 2.0)
    bad = failed(made("spark", 1, 2.0), error="DataError: [cut] off\n\nTraceback")
    lines = shown([good, bad], terminal=False).splitlines()
    # 5 s of start-up, three epochs of 2 s, 1 s of testing; 1,200 rows in 2 s
    assert lines[0] == f"[1/2] {good.case.id} finished: 12 s, 600 images/s, accuracy 90.0 %"
    assert lines[1] == f"[2/2] {bad.case.id} failed: DataError: [cut] off"
    assert len(lines) == 2


def test_a_terminal_has_the_lines_too() -> None:
    good = made("gloo", 1, 2.0)
    assert f"[1/1] {good.case.id} finished" in shown([good], terminal=True)


def test_table_for_a_readme() -> None:
    records = [made("gloo", 1, 2.0), made("gloo", 2, 1.0), failed(made("gloo", 4, 1.0))]
    lines = markdown(records).splitlines()
    assert lines[0] == "### LeNet on generated, MNIST's shape"
    assert lines[2].startswith("| stack | workers | end to end, s |")
    assert lines[4:] == [
        "| Horovod (Gloo over TCP) | 1 | 12 | 2 | 600 | 100 % | 90.0 % | 1 of 1 |",
        "| Horovod (Gloo over TCP) | 2 | 9 | 1 | 1,200 | 100 % | 90.0 % | 1 of 1 |",
        "| Horovod (Gloo over TCP) | 4 |  |  |  |  |  | 0 of 1 |",
    ]
    assert "Horovod" in summary_text(records)


def test_outputs_are_written(output: OutputFolder) -> None:
    output.path.mkdir()
    output.describe(replace(SWEEP, left_out=("fp16 on local: no",)))
    output.write([made("gloo", 1, 2.0), made("gloo", 2, 1.0)])
    assert "Left out: fp16 on local: no." in output.page.read_text()
    assert "<title>three" in output.page.read_text()
    suffixes = {path.suffix for path in output.figures.iterdir()}
    assert suffixes == {".png", ".svg"}
    assert "Gloo" in output.table.read_text()


def test_outputs_on_a_full_disk(output: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    output.path.mkdir()
    output.page.write_text("the page of yesterday")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PersistenceError, match=r"No space left on device.*goes on there"):
        output.write([made("gloo", 1, 2.0)])
    assert output.page.read_text() == "the page of yesterday"


def test_helper_waits_only_so_long() -> None:
    helper, forever = Helper("test"), threading.Event()
    assert helper.do(lambda: None, 10) is None
    assert helper.do(lambda: [][0], 10) == "IndexError: list index out of range"
    assert helper.do(lambda: forever.wait() and None, 0.1) == "no answer within 0.1 s"
    forever.set()


class BrokenRuns:
    target = "MLflow at a server"

    def __init__(self) -> None:
        self.calls = 0

    def open(self, records: Any) -> None:
        self.calls += 1

    def add(self, record: Any) -> None:
        self.calls += 1
        raise ConnectionError("refused")

    close = add_outputs = add


def test_tracking_that_fails_is_told_once_and_left_alone(output: OutputFolder) -> None:
    told: list[str] = []
    tracking = SweepTracking(SWEEP, output, "http://127.0.0.1:1", told.append)
    broken = BrokenRuns()
    tracking._runs = broken  # type: ignore[assignment]
    with tracking:
        tracking.ended(made("gloo", 1, 2.0))
        tracking.ended(made("gloo", 2, 1.0))
        tracking.outputs()
    assert broken.calls == 2
    assert len(told) == 1
    assert "MLflow at a server does not record this sweep any more: ConnectionError" in told[0]


def test_where_a_sweep_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:5000")
    assert tracking_uri(None, tmp_path) == "http://a:5000"
    assert tracking_uri("http://b:5000", tmp_path) == "http://b:5000"


def test_multiply_adds_are_those_of_the_models() -> None:
    for name in model_names():
        assert multiply_adds(build_model(name)) == get_model(name).multiply_adds, name


def test_words_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [softmax]\nbackends: [local, horovod]\nworkers: [1, 2]\n")
    sweep = command.read_sweep([str(file), "workers=1", "data=generated-mnist"])
    assert [case.backend for case in sweep.cases] == ["local", "horovod"]
    with pytest.raises(ConfigurationError, match=r"one sweep file.*Got a\.yaml and b\.yaml"):
        command.read_sweep(["a.yaml", "b.yaml"])
    assert command.pairs(["spark.a=b=c"]) == {"spark.a": "b=c"}
    with pytest.raises(ConfigurationError, match=r"--conf must look .*Got 'spark.a'"):
        command.pairs(["spark.a"])


def test_quick_needs_no_file_and_takes_settings() -> None:
    sweep = command.read_sweep([], quick=True)
    assert [(case.backend, case.workers) for case in sweep.cases] == [
        ("local", 1), ("horovod", 2), ("parameter_server", 2), ("shuffle", 2),
    ]  # fmt: skip
    estimates = Estimates([], cores=2)
    assert sum(estimates.seconds(case) for case in sweep.cases) < 180
    (case,) = command.read_sweep(["backends=shuffle", "rows=500"], quick=True).cases
    assert (case.data, case.rows) == ("generated-mnist", 500)
    with pytest.raises(
        ConfigurationError, match=r"--quick brings a sweep of its own. Got my\.yaml"
    ):
        command.read_sweep(["my.yaml"], quick=True)


def test_a_sweep_says_first_what_runs_and_how_long(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch, installed: set[str]
) -> None:
    monkeypatch.setattr(command, "run_sweep", lambda *_: SweepEnd((), False))
    console = Console(width=200)
    options = command.CommandOptions(mlflow=False)
    with console.capture() as capture:
        sweep = command.read_sweep([], quick=True)
        code = command.run_command(sweep, output.path, options, console)
    assert code == 0
    said = capture.get().splitlines()
    assert re.fullmatch(r"3 of 3 runs to do, about [\d.]+ (s|min); by .* 6.0 min at most.", said[0])
    assert said[1:] == [
        "Drawn by a program, not real images: generated-mnist.",
        f"Left out: {WITHOUT_HOROVOD}.",
        "Left out: 2 workers of local: they would take turns in one process.",
    ]


def test_examples_can_run() -> None:
    folder = Path(runner.__file__).parents[2] / "examples"
    one = command.read_sweep([str(folder / "characterize.yaml")])
    assert len(one.cases) == 27
    assert {case.transport for case in one.cases} == {"process", "gloo", "mpi-tcp", "grpc", "spark"}
    two = command.read_sweep([str(folder / "emulated_hosts.yaml")])
    assert {case.link_mbit for case in two.cases} == {100, 1000}


@pytest.mark.parametrize(("is_local", "asked"), [(False, 3), (True, 1)])
def test_executors_of_a_cluster_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, is_local: bool, asked: int
) -> None:
    questions = []

    def require(_: Any, workers: int) -> None:
        questions.append(workers)
        if len(questions) < 3:
            raise ResourceError("too few")

    monkeypatch.setattr(training_case, "require_slots", require)
    monkeypatch.setattr(training_case, "slots", lambda _: SimpleNamespace(is_local=is_local))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(ResourceError) if is_local else nullcontext():
        training_case.wait_for_slots(None, 4)  # type: ignore[arg-type]
    assert questions == [4] * asked
