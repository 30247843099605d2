"""The examples reach who has only the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from spark_dlobd import cli, example_files
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.example_files import write_examples

CHECKOUT = Path(__file__).parents[2]


def test_what_is_written_is_what_the_checkout_has(tmp_path: Path) -> None:
    written = write_examples(tmp_path / "new" / "folder")
    here = {path.name: path.read_bytes() for path in written}
    there = {path.name: path.read_bytes() for path in (CHECKOUT / "examples").glob("*.*")}
    del there["__init__.py"]
    assert here == there
    assert written[0].name == "cross_validation.py"


def test_every_kind_of_file_in_examples_is_in_the_wheel() -> None:
    try:
        import tomllib
    except ImportError:
        pytest.skip("tomllib came with Python 3.11")
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {"*.py", *settings["package-data"]["spark_dlobd.examples"]}
    assert {f"*{path.suffix}" for path in (CHECKOUT / "examples").glob("*.*")} == packed
    assert (CHECKOUT / "spark_dlobd" / "examples").resolve() == CHECKOUT / "examples"


def test_nothing_is_overwritten_and_nothing_added(tmp_path: Path) -> None:
    (tmp_path / "quickstart.py").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"already has quickstart\.py, which stay"):
        write_examples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.py"]
    assert (tmp_path / "quickstart.py").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Cannot write the examples to"):
        write_examples(tmp_path / "file" / "below")


def test_an_installation_without_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(example_files.resources, "files", lambda name: tmp_path)
    with pytest.raises(ConfigurationError, match="has no examples in"):
        write_examples(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_says_how_to_run_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.shutil, "which", lambda name: cli.sys.executable)
    result = CliRunner().invoke(cli.main, ["examples"])
    assert result.exit_code == 0
    assert "examples/characterize.yaml\n" in result.output
    assert result.output.endswith("\n\n  python examples/quickstart.py\n")
    again = CliRunner().invoke(cli.main, ["examples"])
    assert (again.exit_code, "already has" in again.output) == (2, True)
    monkeypatch.setattr(cli.shutil, "which", lambda name: None)
    other = CliRunner().invoke(cli.main, ["examples", "my folder"])
    assert f"  {cli.sys.executable} 'my folder/quickstart.py'\n" in other.output
