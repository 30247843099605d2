"""Installed versions against the bounds in this package's own metadata."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from spark_dlobd.doctor.finding import HOROVOD, HOROVOD_MPI, Finding
from spark_dlobd.processes.interpreter_facts import PETASTORM
from spark_dlobd.processes.versions import petastorm_problem, version_of

DISTRIBUTION = "spark-dlobd"
OPTIONAL_EXTRAS = ("cpu", "gpu", "horovod", "mpi")
REINSTALL = "Install the whole set in one call, so that pip resolves it together."
INSTALL = (f"pip install '{DISTRIBUTION}[cpu]'",)


def check_packages() -> list[Finding]:
    """Compare Python and every dependency with the bounds of this package."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
        python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding(
                DISTRIBUTION,
                "not installed, so its bounds are unknown",
                state="failed",
                fix="In a checkout:",
                commands=("pip install -e '.[cpu]'",),
            )
        ]
    own = Finding(DISTRIBUTION, importlib.metadata.version(DISTRIBUTION))
    return [own, check_python(python), *check_requirements(map(Requirement, lines))]


def check_python(bound: str) -> Finding:
    """Compare the running interpreter with ``requires-python``."""
    version = platform.python_version()
    if SpecifierSet(bound).contains(version, prereleases=True):
        return Finding("python", version, bound)
    fix = f"Create the environment with an interpreter that is {bound}."
    return Finding("python", version, bound, "failed", fix)


def check_requirements(requirements: Iterable[Requirement]) -> list[Finding]:
    """Compare each requirement, those of optional extras only where installed."""
    findings: dict[str, Finding] = {}
    problem = petastorm_problem()
    for requirement in requirements:
        if applies_only(requirement, PETASTORM):
            if problem is None:  # it asks for more than the package itself
                findings[requirement.name] = _check(requirement, optional=False)
        elif applies(requirement, ""):
            findings.setdefault(requirement.name, _check(requirement, optional=False))
        elif any(applies(requirement, extra) for extra in OPTIONAL_EXTRAS):
            finding = _check(requirement, optional=True)
            if applies(requirement, "horovod"):
                finding = replace(finding, needed_by=(HOROVOD, HOROVOD_MPI))
            elif finding.state == "absent":
                finding = replace(finding, needed_by=())
            findings.setdefault(requirement.name, finding)
    findings.pop(DISTRIBUTION, None)
    return [*findings.values(), check_tensorflow(), check_reader(problem)]


def check_reader(problem: str | None) -> Finding:
    """Name the library through which rows are read, and so which of the two sets is there."""
    if problem is None:
        return Finding("reader of rows", f"petastorm {version_of(PETASTORM)}")
    return Finding("reader of rows", f"pyarrow alone: {problem}")


def applies_only(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement belongs to `extra`, and not to the package without extras."""
    return applies(requirement, extra) and not applies(requirement, "")


def applies(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement belongs to `extra`; ``""`` is the package without extras."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check(requirement: Requirement, optional: bool) -> Finding:
    version = version_of(requirement.name)
    bound = str(requirement.specifier)
    if version is None:
        if optional:
            return Finding(requirement.name, "not installed", bound, "absent")
    elif requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, version, bound)
    command = f"pip install '{DISTRIBUTION}[cpu]' '{requirement.name}{requirement.specifier}'"
    found = version or "not installed"
    return Finding(requirement.name, found, bound, "failed", REINSTALL, (command,))


def check_tensorflow() -> Finding:
    """Exactly one of the two TensorFlow distributions must be there."""
    names = ("tensorflow", "tensorflow-cpu")
    versions = {name: version for name in names if (version := version_of(name))}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    expected = "tensorflow-cpu or tensorflow, not both"
    if len(versions) == 1:
        return Finding("TensorFlow", found, expected)
    if versions:
        fix = "They overwrite each other's files. Uninstall both, then install one."
        remove = "pip uninstall -y tensorflow tensorflow-cpu"
        return Finding("TensorFlow", found, expected, "failed", fix, (remove, *INSTALL))
    fix = "On machines with GPUs the extra gpu instead of cpu."
    return Finding("TensorFlow", "not installed", expected, "failed", fix, INSTALL)
