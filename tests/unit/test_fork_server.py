"""Processes that are forked with TensorFlow, on real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from spark_dlobd.processes import forked
from spark_dlobd.processes.child import ChildEnded, ChildProcess
from spark_dlobd.processes.environment import tensorflow_environment
from spark_dlobd.processes.events import Event, Phase


@dataclass(frozen=True)
class Told(Event):
    """What the program of a test tells."""

    header: dict[str, Any]


TELLS = """
    import json, os, sys, time
    from contextlib import suppress
    from spark_dlobd.processes.frames import write_frame

    def tell(**header):
        with os.fdopen(int(sys.argv[2]), "wb", closefd=False) as events:
            write_frame(events, {"kind": "Told", "header": header})

    def say(text):
        with os.fdopen(int(sys.argv[2]), "wb", closefd=False) as events:
            write_frame(events, {"kind": "Phase", "text": text})
"""


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One of its own for each test, which has ended after it."""
    monkeypatch.setattr(forked, "_server", None)
    monkeypatch.setattr(forked, "_left", [])
    yield
    if (started := forked._server) is not None:
        started.leave()
        started.process.wait(10)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module that can be run; its TensorFlow does what `tensorflow` says."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, tensorflow: str | None = "") -> str:
        if tensorflow is not None:
            (tmp_path / "tensorflow.py").write_text(tensorflow)
        (tmp_path / "program.py").write_text(textwrap.dedent(TELLS) + textwrap.dedent(text))
        return "program"

    return write


def told(process: ChildProcess) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        heard = process.event(1)
        if heard is not None and isinstance(heard[0], Told):
            return heard[0].header
    raise AssertionError(process.last_lines)


def end_of(process: ChildProcess) -> ChildEnded:
    with pytest.raises(ChildEnded) as caught:
        while process.event(20) is not None:
            pass
    return caught.value


def test_what_is_forked_has_tensorflow_and_is_a_program_of_its_own(program: Any) -> None:
    """TensorFlow trains in it with several threads, as it does in a program that is started."""
    module = program(
        """
        has = "tensorflow" in sys.modules
        import random, keras, numpy as np
        network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        network.compile("sgd", "mse")
        network.fit(np.ones((64, 8)), np.ones((64, 1)), verbose=0)
        np.ones((600, 600)) @ np.ones((600, 600))
        tell(
            has=has, argv=sys.argv[3:], named=__name__, leads=os.getpgid(0) == os.getpid(),
            threads=os.environ["TF_NUM_INTRAOP_THREADS"],
            random=[np.random.random(), random.random()],
        )
        sys.exit(3)
        """,
        tensorflow=None,
    )
    answers = []
    for name in ("worker 0", "worker 1"):
        environment = tensorflow_environment(2, None)
        with ChildProcess(module, environment, lambda line: None, name) as process:
            answers.append(told(process))
            assert process.process.wait(20) == 3
            assert answers[-1] == answers[-1] | {
                "has": True, "argv": [name], "named": "__main__", "leads": True, "threads": "2"
            }  # fmt: skip
    assert len({number for answer in answers for number in answer["random"]}) == 4


def test_one_server_forks_what_differs_in_nothing_that_an_import_reads(program: Any) -> None:
    module = program("tell(parent=os.getppid(), steps=os.environ.get('HOROVOD_CYCLE_TIME'))")

    def parent(**environment: str) -> Any:
        fixed = tensorflow_environment(1, None)
        with ChildProcess(module, {**fixed, **environment}, lambda line: None) as process:
            return told(process)["parent"]

    first = parent()
    assert parent(HOROVOD_CYCLE_TIME="2", CUDA_VISIBLE_DEVICES="1") == first
    assert parent(TF_ENABLE_ONEDNN_OPTS="0") != first
    assert [left.process.pid for left in forked._left] == [first]
    assert forked._left[0].process.wait(10) == 0  # nobody needs it any more


def test_process_lists_show_the_program(program: Any) -> None:
    module = program("tell(); sys.stdin.read()")
    with ChildProcess(module, tensorflow_environment(1, None), print, "worker 7") as process:
        told(process)
        shown = " ".join(psutil.Process(process.process.pid).cmdline())
        assert shown == f"{sys.executable} -m {shown.split()[2]} {shown.split()[3]} 3 worker 7"
        assert shown.split()[2].endswith("program")


def test_everything_ends_with_the_owner(program: Any, tmp_path: Path) -> None:
    """Spark kills the Python worker of a task that it cancels."""
    module = program("say('told'); sys.stdin.read(); time.sleep(60)")
    owner = tmp_path / "owner.py"
    owner.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            from spark_dlobd.processes.child import ChildProcess
            from spark_dlobd.processes.events import Phase

            with ChildProcess({module!r}, {{}}, lambda line: None) as process:
                while process.event(60)[0] != Phase("told"):
                    pass
                print(process.process.pid, flush=True)
                time.sleep(60)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(owner)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        forked_pid = int(process.stdout.readline())
        family = psutil.Process(process.pid).children(recursive=True)
        assert forked_pid in [child.pid for child in family]
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_killing_one_that_has_just_ended_is_no_error(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is told by the server a moment after it is gone."""
    module = program("tell(ready=True); sys.stdin.read()")
    with ChildProcess(module, {}, lambda line: None) as process:
        assert told(process) == {"ready": True}
        with monkeypatch.context() as late:
            late.setattr(process.process, "poll", lambda: None)
            os.kill(process.process.pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while psutil.pid_exists(process.process.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.process.kill()


def test_a_server_that_is_killed_is_seen_and_replaced(program: Any) -> None:
    module = program("tell(parent=os.getppid()); sys.stdin.read()")
    with ChildProcess(module, {}, lambda line: None) as process:
        os.kill(told(process)["parent"], signal.SIGKILL)
        ended = end_of(process)
        assert "killed by signal 9" in str(ended)
        assert ended.was_killed
    with ChildProcess(module, {}, lambda line: None) as process:
        told(process)


def test_threads_that_an_import_starts_forbid_the_fork(program: Any, tmp_path: Path) -> None:
    """The program is started anew then, as it would be without a server."""
    (tmp_path / "cloudpickle.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), name='pool', daemon=True).start()"
    )
    module = program("tell(has='tensorflow' in sys.modules, argv=sys.argv[3:])")
    lines: list[str] = []
    with ChildProcess(module, {}, lines.append, "worker 0") as process:
        assert told(process) == {"has": False, "argv": ["worker 0"]}
        process.process.wait(20)
    assert "Started anew, not forked: there are threads: pool" in lines


def test_an_import_that_fails_is_told_by_the_program(program: Any) -> None:
    module = program("import tensorflow", "raise ImportError('built for another processor')")
    with ChildProcess(module, {}, lambda line: None) as process:
        assert "exit code 1" in str(end_of(process))
        assert process.last_lines[-1] == "ImportError: built for another processor"


def test_a_server_that_dies_in_its_import_says_how(program: Any) -> None:
    dies = (
        "import os, signal\nprint('no such instruction', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGILL)"
    )
    with ChildProcess(program("", dies), {}, lambda line: None) as process:
        assert "killed by signal 4 (SIGILL)" in str(end_of(process))
        assert process.last_lines[-1] == "no such instruction"


def test_leaving_while_the_server_imports_ends_it(program: Any) -> None:
    module = program("", "import time\ntime.sleep(60)")
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ChildProcess(module, {}, print) as process:
        assert process.event(20) == (Phase("import tensorflow"), b"")
        raise KeyboardInterrupt
    assert process.process.wait(10) == -signal.SIGKILL
    assert time.monotonic() - began < 30


def test_no_descriptor_is_left(program: Any) -> None:
    module = program("tell()")

    def run() -> int:
        with ChildProcess(module, {}, lambda line: None) as process:
            told(process)
        return len(os.listdir("/proc/self/fd"))

    assert run() == run() == run()


def test_children_end_one_by_one(program: Any) -> None:
    module = program("tell(); sys.stdin.read(); sys.exit(int(sys.argv[3]))")
    with (
        ChildProcess(module, {}, lambda line: None, "5") as first,
        ChildProcess(module, {}, lambda line: None, "6") as second,
    ):
        assert told(first) == told(second)
        second.process.stdin.close()
        assert second.process.wait(10) == 6
        assert first.process.poll() is None
        first.process.stdin.close()
        assert first.process.wait(10) == 5
