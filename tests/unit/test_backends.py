from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import pytest

from spark_dlobd import HorovodConfig, LocalConfig, ShuffleConfig, register_backend
from spark_dlobd.backends import registry
from spark_dlobd.backends.barrier import rank_environment
from spark_dlobd.backends.process import RankProcess
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.spark import cores_of_master


def test_a_name_means_that_backend_and_unknown_names_are_listed() -> None:
    assert registry.from_param("horovod") == HorovodConfig()
    with pytest.raises(ConfigurationError, match=r"'auto' or one of 'horovod', 'local'.*'magic'"):
        registry.to_param("magic")


def test_configs_survive_the_param() -> None:
    config = HorovodConfig(controller="mpi", transport="tcp", mpi_args=("-v",))
    stored = registry.to_param(config)
    assert stored["name"] == "horovod"
    assert registry.from_param(stored) == config
    assert registry.from_param(registry.to_param(LocalConfig())) == LocalConfig()


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match="HorovodConfig has no option speed"):
        registry.from_param({"name": "horovod", "speed": 1})


@pytest.mark.parametrize(
    ("workers", "installed", "name", "reason"),
    [
        (1, True, "local", "one worker needs no communication"),
        (1, False, "local", "one worker needs no communication"),
        (2, True, "horovod", "several workers, Horovod is installed"),
        (2, False, "shuffle", "Horovod is not installed, so gradients travel through Spark's"),
    ],
)
def test_the_automatic_choice(
    monkeypatch: pytest.MonkeyPatch, workers: int, installed: bool, name: str, reason: str
) -> None:
    found = object() if installed else None
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda module: found)
    spark: Any = None
    backend, said = registry.choose_backend("auto", spark, workers)
    assert backend.name == name
    assert said.startswith("auto: ") and reason in said
    assert registry.choose_backend("shuffle", spark, 1)[1] == "chosen by the user"


def test_a_name_cannot_be_taken_twice() -> None:
    register_backend("horovod", "spark_dlobd.backends.horovod:HorovodConfig")
    with pytest.raises(ConfigurationError, match="'horovod' is taken"):
        register_backend("horovod", "elsewhere:Config")
    with pytest.raises(ConfigurationError, match="'auto' is taken"):
        register_backend("auto", "elsewhere:Config")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "smoke"}, "controller must be one of 'gloo', 'mpi'. Got 'smoke'"),
        ({"compression": "fp8"}, "compression must be one of None, 'fp16', 'bf16'"),
        ({"start_timeout_s": 0}, "start_timeout_s must be at least 1. Got 0"),
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
        ({"sync_every": 0}, r"sync_every must be an int in \[1, inf\). Got 0"),
        ({"sync_every": None}, "sync_every must be an int .* Got None"),
        ({"iterations_per_job": 0}, "iterations_per_job must be an int .* Got 0"),
        ({"max_restarts": -1}, r"max_restarts must be an int in \[0, inf\). Got -1"),
        ({"start_timeout_s": 0}, "start_timeout_s must be a number above 0. Got 0"),
        ({"progress_timeout_s": "1"}, "progress_timeout_s must be a number above 0. Got '1'"),
        ({"wire": "bf16", "sync_every": 2}, "wire='bf16' needs sync_every=1"),
        ({"error_feedback": True}, "error_feedback=True needs wire='bf16' or 'fp16'"),
    ],
)
def test_options_of_the_shuffle_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ShuffleConfig(**options)


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
    assert environment["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "120"


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
    with RankProcess("spark_dlobd.no_such_module", {}, lines.append) as process:
        assert process.frames.get(timeout=20) is None
        assert "exit code 1" in process.exit_text()
        assert "No module named spark_dlobd.no_such_module" in process.exit_text()
    assert any("no_such_module" in line for line in lines)


def test_leaving_the_block_ends_the_rank() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        RankProcess("spark_dlobd.backends.rank_main", {}, lambda line: None) as process,
    ):
        pid = process.process.pid
        raise KeyboardInterrupt
    assert process.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert sys.executable
