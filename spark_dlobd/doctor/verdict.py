"""What the findings mean for each backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from spark_dlobd.doctor.finding import BACKENDS, Finding, Verdict


def verdicts(findings: Sequence[Finding]) -> list[Verdict]:
    """One verdict for each backend.

    Examples
    --------
    >>> found = [Finding("horovod", "not installed", state="absent", needed_by=("horovod",))]
    >>> [(verdict.backend, verdict.text) for verdict in verdicts(found)][3:5]
    [('parameter_server', 'works'), ('horovod', 'needs horovod (not installed)')]
    """
    return [_verdict(backend, findings) for backend in BACKENDS]


def _verdict(backend: str, findings: Sequence[Finding]) -> Verdict:
    unmet = [
        finding for finding in findings if finding.state != "ok" and backend in finding.needed_by
    ]
    if not unmet:
        return Verdict(backend, True, "works")
    needs = dict.fromkeys(_need(finding) for finding in unmet)
    commands = dict.fromkeys(command for finding in unmet for command in finding.commands)
    return Verdict(backend, False, f"needs {', '.join(needs)}", tuple(commands))


def _need(finding: Finding) -> str:
    if finding.found in ("not installed", "not found"):
        return f"{finding.name} ({finding.found})"
    return f"{finding.name} (see above)"
