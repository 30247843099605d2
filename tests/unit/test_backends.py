from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from spark_dlobd import HorovodConfig, LocalConfig, ShuffleConfig, register_backend
from spark_dlobd.backends import registry
from spark_dlobd.backends.horovod.task import rank_environment
from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError
from spark_dlobd.processes import mpirun
from spark_dlobd.processes.child import ChildEnded, ChildProcess
from spark_dlobd.spark import cores_of_master


def test_a_name_means_that_backend_and_unknown_names_are_listed() -> None:
    assert registry.from_param("horovod") == HorovodConfig()
    with pytest.raises(
        ConfigurationError, match=r"'auto', one of 'collective', 'horovod', 'local'.*'magic'\.$"
    ):
        registry.to_param("magic")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("horvod", "Did you mean 'horovod'?"),
        ("Local", "Did you mean 'local'?"),
        ("parameterServer", "Did you mean 'parameter_server'?"),
        ("HorovodConfig", "Did you mean 'horovod'?"),
        ("Auto", "Did you mean 'auto'?"),
        ("mpi", "Write backend=HorovodConfig(controller='mpi')."),
        ("ps", "Write backend='parameter_server'."),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(name: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"Got {name!r}. {advice}") + "$"):
        registry.to_param(name)


def test_a_config_class_in_place_of_a_config() -> None:
    with pytest.raises(ConfigurationTypeError, match=r"backend must be .* Write HorovodConfig\(\)"):
        registry.to_param(HorovodConfig)


def test_configs_survive_the_param() -> None:
    config = HorovodConfig(controller="mpi", transport="tcp", mpi_args=("-v",))
    stored = registry.to_param(config)
    assert stored["name"] == "horovod"
    assert registry.from_param(stored) == config
    assert registry.from_param(registry.to_param(LocalConfig())) == LocalConfig()


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match="HorovodConfig has no option speed"):
        registry.from_param({"name": "horovod", "speed": 1})
    with pytest.raises(
        ConfigurationError, match=r"no option controler\. Did you mean 'controller'"
    ):
        registry.from_param({"name": "horovod", "controler": "mpi"})


@pytest.mark.parametrize(
    ("workers", "installed", "protected", "name", "reason"),
    [
        (1, "horovod mpi4py", None, "local", "one worker needs no communication"),
        (1, "", None, "local", "one worker needs no communication"),
        (2, "horovod mpi4py", None, "horovod", "several workers, and Horovod is installed"),
        (2, "mpi4py", None, "collective", "several workers, and MPI is installed"),
        (2, "mpi4py", "spark.authenticate", "shuffle", "spark.authenticate protects Spark's"),
        (2, "", None, "shuffle", "neither Horovod nor MPI is installed, so gradients travel"),
    ],
)
def test_the_automatic_choice(
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    installed: str,
    protected: str | None,
    name: str,
    reason: str,
) -> None:
    def find_spec(module: str) -> object:
        return object() if module in installed.split() else None

    monkeypatch.setattr(registry.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(mpirun, "find_mpirun", lambda: "mpirun")
    choice = registry.choose_backend("auto", workers, protected)
    assert choice.backend.name == name
    assert choice.reason.startswith("auto: ") and reason in choice.reason
    assert registry.choose_backend("shuffle", 1).reason == "chosen by the user"


@dataclass(frozen=True)
class _Derived(HorovodConfig):
    """Options of a backend that nobody has registered."""


def test_a_config_of_another_backend_is_not_taken_for_the_one_it_is_made_of() -> None:
    with pytest.raises(ConfigurationTypeError, match=r"of type _Derived"):
        registry.to_param(_Derived())


def test_a_name_cannot_be_taken_twice() -> None:
    register_backend("horovod", "spark_dlobd.backends.horovod.config:HorovodConfig")
    with pytest.raises(ConfigurationError, match="'horovod' is taken"):
        register_backend("horovod", "elsewhere:Config")
    with pytest.raises(ConfigurationError, match="'auto' is taken"):
        register_backend("auto", "elsewhere:Config")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "smoke"}, "controller must be one of 'gloo', 'mpi'. Got 'smoke'"),
        ({"compression": "fp8"}, "compression must be one of None, 'fp16', 'bf16'"),
        ({"start_timeout_s": 0}, "start_timeout_s must be a float of at least 1. Got 0"),
        ({"start_timeout_s": "60"}, "start_timeout_s must be a float of at least 1. Got '60'"),
        ({"stall_timeout_s": float("inf")}, "stall_timeout_s must be a float .* Got inf"),
        ({"gradient_accumulation_steps": 1.5}, "_steps must be an int of at least 1. Got 1.5"),
        ({"threads_per_rank": 0}, "threads_per_rank must be an int of at least 1. Got 0"),
        ({"transport": "ucx"}, "controller='gloo' is TCP only"),
        ({"controller": "mpi", "ucx_tls": "rc"}, "need transport='ucx'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HorovodConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wire": "fp8"}, "wire must be one of 'fp32', 'bf16', 'fp16'. Got 'fp8'"),
        ({"state": "disk"}, "state must be None, 'host' or 'shuffle'. Got 'disk'"),
        ({"sync_every": 0}, r"sync_every must be an int of at least 1. Got 0"),
        ({"sync_every": None}, "sync_every must be an int .* Got None"),
        ({"iterations_per_job": 0}, "iterations_per_job must be an int .* Got 0"),
        ({"max_restarts": -1}, r"max_restarts must be an int of at least 0. Got -1"),
        ({"start_timeout_s": 0}, "start_timeout_s must be a float above 0. Got 0"),
        ({"progress_timeout_s": "1"}, "progress_timeout_s must be a float above 0. Got '1'"),
        ({"wire": "bf16", "sync_every": 2}, "wire='bf16' needs sync_every=1"),
        ({"error_feedback": True}, "error_feedback=True needs wire='bf16' or 'fp16'"),
    ],
)
def test_options_of_the_shuffle_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ShuffleConfig(**options)


def test_numbers_of_numpy_become_plain_and_can_be_saved() -> None:
    config: Any = HorovodConfig(threads_per_rank=np.int64(2), start_timeout_s=np.float32(30))
    assert json.dumps([config.threads_per_rank, config.start_timeout_s]) == "[2, 30.0]"


def test_shuffle_options_survive_the_param() -> None:
    config = ShuffleConfig(wire="bf16", error_feedback=True, iterations_per_job=3)
    assert registry.from_param(registry.to_param(config)) == config


@pytest.mark.parametrize("config", [HorovodConfig, ShuffleConfig])
def test_every_option_is_documented(config: Any) -> None:
    for field in dataclasses.fields(config):
        assert field.name in (config.__doc__ or "")


def test_rank_environment_takes_threads_and_gpus_from_spark() -> None:
    environment = rank_environment(4, ["1", "3"], HorovodConfig())
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["TF_NUM_INTRAOP_THREADS"] == "4"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    # the driver watches for stalls; Horovod only warns of them in the log
    assert environment["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "600"
    assert environment["HOROVOD_STALL_CHECK_TIME_SECONDS"] == "60"


def test_rank_environment_takes_options_from_the_config() -> None:
    config = HorovodConfig(
        threads_per_rank=2,
        fusion_threshold_bytes=1024,
        timeline_path="/var/log/timeline.json",
        environment={"NCCL_IB_HCA": "mlx5"},
    )
    environment = rank_environment(4, None, config)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["HOROVOD_FUSION_THRESHOLD"] == "1024"
    assert environment["HOROVOD_TIMELINE"] == "/var/log/timeline.json"
    assert environment["NCCL_IB_HCA"] == "mlx5"
    assert "CUDA_VISIBLE_DEVICES" not in environment


@pytest.mark.parametrize(
    ("master", "cores"),
    [
        ("local", 1),
        ("local[3]", 3),
        ("local[*]", os.cpu_count()),
        ("local[2,4]", 2),
        ("local-cluster[2,3,1024]", 6),
        ("spark://host:7077", None),
        ("yarn", None),
    ],
)
def test_cores_of_masters(master: str, cores: int | None) -> None:
    assert cores_of_master(master) == cores


def test_a_rank_that_cannot_start_says_why() -> None:
    lines: list[str] = []
    with ChildProcess("spark_dlobd.no_such_module", {}, lines.append) as process:
        with pytest.raises(ChildEnded) as ended:
            while process.event(20) is not None:
                pass
        assert "exit code 1" in str(ended.value)
        assert "No module named spark_dlobd.no_such_module" in str(ended.value)
    assert any("no_such_module" in line for line in lines)


def test_leaving_the_block_ends_the_rank() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        ChildProcess("spark_dlobd.backends.horovod.rank_main", {}, lambda line: None) as process,
    ):
        pid = process.process.pid
        raise KeyboardInterrupt
    assert process.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert sys.executable
