"""A virtual environment as ``pip install '.[cpu]'`` makes it, in seconds and without a network.

Files are hard links to those of the environment that runs the tests.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

import spark_dlobd

_OWN = "spark-dlobd"
# What the driver alone uses, and what TensorFlow only needs to be compiled against.
_NOT_ON_WORKERS = frozenset({"mlflow", "matplotlib", "libclang"})
# 815 MB of machine code. An archive holds links to it, as it does to the interpreter.
_LINKED = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")


def make_environment(folder: Path, extra: Collection[str] = ()) -> None:
    """Make `folder` an environment with this package and what its workers import.

    Parameters
    ----------
    folder : Path
        Where; made.
    extra : collection of str
        Further distributions; those that are not installed are left out.
    """
    make_bare_environment(folder)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for distribution in _needed([_OWN, *extra]):
        if _name(distribution) == _OWN:
            _install_own(distribution, packages)
        else:
            _link(distribution, packages)
    command = folder / "bin" / _OWN
    command.write_text(
        f"#!{folder}/bin/python\nimport sys\nfrom spark_dlobd.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)


def make_bare_environment(folder: Path) -> None:
    """Make an environment that has a Python and no packages."""
    python = os.path.realpath(sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)


def _needed(names: list[str]) -> Iterator[Distribution]:
    """The distributions and all that they require."""
    seen: set[str] = set()
    waiting = [(name, {"cpu", "horovod"} if name == _OWN else set[str]()) for name in names]
    while waiting:
        name, extras = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in seen or name in _NOT_ON_WORKERS:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # an extra that this machine has not
            continue
        seen.add(name)
        yield distribution
        for required in map(Requirement, distribution.requires or []):
            marker = required.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (extras or {""})):
                waiting.append((required.name, set(required.extras)))


def _name(distribution: Distribution) -> str:
    return str(distribution.metadata["Name"]).lower().replace("_", "-")


def _link(distribution: Distribution, packages: Path) -> None:
    for file in distribution.files or []:
        source = Path(os.path.normpath(str(distribution.locate_file(file))))
        target = Path(os.path.normpath(packages / str(file)))
        if not source.exists() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.name in _LINKED or source.is_symlink():
            target.symlink_to(os.path.realpath(source))
            continue
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)


def _install_own(distribution: Distribution, packages: Path) -> None:
    """This package may be installed as a link to the checkout: take its files."""
    source = Path(spark_dlobd.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, packages / source.name, ignore=ignored)
    metadata = packages / f"spark_dlobd-{distribution.version}.dist-info"
    metadata.mkdir()
    # An editable installation also leaves an egg-info in the checkout, which is found first there.
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    assert text, f"{distribution} has no metadata"
    (metadata / "METADATA").write_text(text)
