"""Python stacks of a child process that stands still."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from spark_dlobd.processes.child import ChildProcess
from spark_dlobd.processes.events import Phase
from spark_dlobd.processes.stacks import SIGNAL, of_all_ranks, readable

PROGRAM = """
import sys, threading, time
from spark_dlobd.processes.stacks import answer_with_stacks

def waits_for_a_friend():
    time.sleep(60)

def main():
    answer_with_stacks()
    threading.Thread(target=waits_for_a_friend, daemon=True).start()
    time.sleep(0.2)
    print("ready", flush=True)
    stands_still()

def stands_still():
    {what}

main()
"""


@pytest.mark.parametrize("what", ["time.sleep(60)", "sum(range(10**12))"])
def test_the_main_thread_comes_first(what: str) -> None:
    """The second one holds the interpreter's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(what=what)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(SIGNAL)
        time.sleep(1)
        process.kill()
        lines = process.stderr.read().splitlines()
    told = readable(lines)
    assert "in stands_still" in told.splitlines()[0]
    assert "in waits_for_a_friend" in told.partition("another thread:")[2]


def test_long_stacks_are_cut() -> None:
    lines = ["Current thread 0x1 (most recent call first):"]
    lines += [f'  File "a.py", line {i} in f' for i in range(100)]
    assert readable(lines).splitlines()[-1] == '  File "a.py", line 14 in f'
    assert readable([]) == ""


def test_how_a_thread_began_is_left_out() -> None:
    lines = ["Thread 0x1 (most recent call first):"]
    lines += [f'  File "a.py", line 1 in {name}' for name in ("act", "run", "_bootstrap_inner")]
    lines += ["", "Current thread 0x2 (most recent call first):"]
    lines += [f'  File "a.py", line 1 in {name}' for name in ("wait", "run_child", "<module>")]
    told = [line.rpartition(" ")[2] for line in readable(lines).splitlines()]
    assert told == ["wait", "thread:", "act", "run"]


def test_many_ranks_that_wait_alike_are_told_once() -> None:
    told = of_all_ranks({**dict.fromkeys(range(64), "  in wait"), 7: "  in act"})
    assert told.count("in wait") == 1
    assert "rank 7:\n  in act" in told


class _Silent(ChildProcess):
    """Told nothing yet."""

    def __init__(self) -> None:
        super().__init__("nothing", {}, print)


def test_a_child_that_is_not_set_up_gets_no_signal() -> None:
    assert "does not run yet" in _Silent().stacks()


def test_a_child_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    with ChildProcess("tests.unit.stands_still", {}, printed.append) as child:
        while (told := child.event(60)) is not None and told[0] != Phase("standing still"):
            pass
        found = child.stacks(timeout_s=5)
    assert "in stands_still" in found
    assert not any("in stands_still" in line for line in printed)
