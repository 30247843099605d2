from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spark_dlobd.backends.allreduce.mpi import launch as mpi
from spark_dlobd.backends.allreduce.mpi.options import MpiOptions
from spark_dlobd.errors import TrainingError
from spark_dlobd.processes.placement import place_ranks


def joined(options: MpiOptions) -> str:
    return " ".join(mpi.transport_arguments(options))


def test_rdma_over_ucx_is_asked_for_as_open_mpi_wants_it() -> None:
    options = MpiOptions("ucx", ucx_tls="rc,sm,self", ucx_net_devices="mlx5_0:1")
    assert joined(options) == "--mca pml ucx -x UCX_TLS=rc,sm,self -x UCX_NET_DEVICES=mlx5_0:1"


def test_ucx_without_rdma_hardware_needs_any_device() -> None:
    options = MpiOptions("ucx", ucx_tls="tcp,self")
    assert "--mca opal_common_ucx_tls any --mca opal_common_ucx_devices any" in joined(options)


def test_tcp_on_an_interface() -> None:
    options = MpiOptions("tcp", network_interface="ib0")
    assert joined(options) == (
        "--mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include ib0 "
        "--prtemca prte_if_include ib0"
    )


def test_user_arguments_come_last() -> None:
    options = MpiOptions(arguments=("--mca", "coll", "^tuned"))
    assert joined(options) == "--mca coll ^tuned"


def test_one_host_needs_no_agent() -> None:
    command = mpi.mpirun_command("mpirun", place_ranks(["h", "h"]), MpiOptions(), "run")
    text = " ".join(command)
    assert "--host h:2" in text
    assert "plm_ssh_agent" not in text
    assert command[-2:] == ["run", "0,1"]


def test_several_hosts_get_their_daemons_through_the_agent() -> None:
    places = place_ranks(["a", "b", "a"])
    command = mpi.mpirun_command("mpirun", places, MpiOptions(), "run")
    text = " ".join(command)
    assert "--host a:2,b:1" in text
    assert "mpi_agent.py run" in text
    # rank 0 is partition 0, rank 1 partition 2, rank 2 partition 1
    assert command[-1] == "0,2,1"


def test_daemon_replaces_its_shell() -> None:
    text = 'A=1;export A;/opt/bin/prted --prtemca hnp_uri "x;tcp://1.2.3.4:5;prted y"'
    assert mpi.daemon_command(text) == [
        "/bin/sh",
        "-c",
        'A=1;export A;exec /opt/bin/prted --prtemca hnp_uri "x;tcp://1.2.3.4:5;prted y"',
    ]


def test_placeholder_hands_its_environment_to_the_task_of_its_rank() -> None:
    prefix = f"spark-dlobd-test-{os.getpid()}"
    with mpi.HandoverSocket(f"{prefix}-7") as handover:
        placeholder = subprocess.Popen(
            [sys.executable, "-I", "-S", mpi._PLACEHOLDER, prefix, "4,7"],
            env={"OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"},
        )
        message = handover.receive(20)
        assert message["PMIX_RANK"] == "1"
        assert placeholder.poll() is None
    assert placeholder.wait(timeout=10) == 0


def test_agent_hands_the_daemon_command_over_and_ends() -> None:
    prefix = f"spark-dlobd-test-{os.getpid()}"
    with mpi.HandoverSocket(f"{prefix}-agent") as handover:
        agent = [
            sys.executable,
            "-I",
            "-S",
            str(mpi._AGENT),
            prefix,
            "hostb",
            "prted",
            '--uri "a;b"',
        ]
        process = subprocess.Popen(agent)
        assert handover.receive(20) == {"host": "hostb", "command": 'prted --uri "a;b"'}
        assert process.wait(timeout=10) == 0


def test_mpirun_that_ends_early_is_an_error_with_its_output(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo no such option; exit 3"]
    with (
        mpi.HandoverSocket(f"spark-dlobd-test-{os.getpid()}-0") as handover,
        mpi.HelperProcess(command, tmp_path / "files", print) as helper,
        pytest.raises(TrainingError, match=r"exit code 3(.|\n)*no such option"),
    ):
        handover.receive(20, helper.check)


def test_nobody_comes() -> None:
    with (
        mpi.HandoverSocket(f"spark-dlobd-test-{os.getpid()}-0") as handover,
        pytest.raises(TimeoutError, match=r"start_timeout_s=0\.3"),
    ):
        handover.receive(0.3)


@pytest.mark.parametrize("ending", ["exits", "is killed"])
def test_helper_process_and_its_files_go_with_the_task(tmp_path: Path, ending: str) -> None:
    """Once told to end the helper takes a second, and a second request would be one too many."""
    sign, told, folder = tmp_path / "pid", tmp_path / "told", tmp_path / "files"
    script = (
        f"trap 'echo x >> {told}; sleep 1; exit' TERM; touch $TMPDIR/session; "
        f"echo $$ > {sign}.new; mv {sign}.new {sign}; while true; do sleep 0.1; done"
    )
    # Spark kills a task that has not ended soon enough
    then = "threading.Timer(0.5, os.kill, (os.getpid(), 9)).start()"
    code = (
        "import os, pathlib, threading, time\n"
        "from spark_dlobd.backends.allreduce.mpi.launch import HelperProcess\n"
        f"command = ['/bin/sh', '-c', {script!r}]\n"
        f"with HelperProcess(command, pathlib.Path({str(folder)!r}), print):\n"
        f"    while not os.path.exists({str(sign)!r}):\n"
        "        time.sleep(0.02)\n"
        f"    {then if ending == 'is killed' else 'pass'}\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    process = Path("/proc", sign.read_text().strip())
    deadline = time.monotonic() + 10
    while (process.exists() or folder.exists()) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not process.exists()
    assert not folder.exists()
    assert told.read_text() == "x\n"


def test_transport_is_read_off_the_connection_summary() -> None:
    lines = [
        "x",
        "  on-host:  all connections are ucx=tcp;eth0",
        "  off-host: all connections are tcp",
    ]
    assert mpi.transport_used(lines) == "mpi: on-host ucx=tcp;eth0, off-host tcp"
    assert mpi.transport_used(["nothing of it"]) == "mpi: not told by Open MPI"


def test_handover_is_json(tmp_path: Path) -> None:
    name = f"spark-dlobd-test-{os.getpid()}-json"
    with mpi.HandoverSocket(name) as handover, socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)
        client.sendall(json.dumps({"a": "b"}).encode() + b"\n")
        assert handover.receive(5) == {"a": "b"}
