"""The examples in docstrings run, but for those that are marked to need a cluster."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import spark_dlobd

PACKAGE = Path(spark_dlobd.__file__).parent
# programs, and what runs in a process of its own
NOT_IMPORTED = ("examples", "mpi_agent", "mpi_placeholder")
MODULES = sorted(
    ".".join(("spark_dlobd", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text() and not any(name in str(path) for name in NOT_IMPORTED)
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name.removesuffix(".__init__"))
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
