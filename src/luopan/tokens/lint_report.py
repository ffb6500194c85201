"""What the lint of a chat template found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing. `where` is a role or a field, `example` a piece of rendered text."""

    rule: str
    severity: Severity
    where: str
    message: str
    hint: str = ""
    example: str = ""


@dataclass(frozen=True)
class LintReport:
    """All findings, errors first."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """The findings that make a template unfit for training or serving."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that one should know the reason of."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def rules(self, *severities: Severity) -> set[str]:
        """The rules broken, of these severities (none given: errors and warnings)."""
        chosen = severities or ("error", "warning")
        return {finding.rule for finding in self.findings if finding.severity in chosen}

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        counts = {name: sum(f.severity == name for f in self.findings) for name in SEVERITIES}
        return {"ok": self.ok, "counts": counts, "findings": [asdict(finding) for finding in self.findings]}


def sorted_report(findings: Iterable[Finding]) -> LintReport:
    """Errors, then warnings, then the rest; the same rule at the same place is said once."""
    once: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        known = once.get((finding.rule, finding.where))
        if known is None or SEVERITIES.index(finding.severity) < SEVERITIES.index(known.severity):
            once[finding.rule, finding.where] = finding
    return LintReport(sorted(once.values(), key=lambda finding: SEVERITIES.index(finding.severity)))


def report_text(report: LintReport) -> str:
    """The findings for a terminal; the same thing found in several places is said once."""
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.severity, finding.rule, finding.message, finding.hint), []).append(finding)
    lines = []
    for (severity, rule, message, hint), found in groups.items():
        lines.append(f"{severity}: {rule}: {message}")
        lines.append(f"  in {'; '.join(finding.where for finding in found)}")
        if found[0].example:
            lines.append(f"  for example {found[0].example!r}")
        if hint and severity != "info":
            lines.append(f"  {hint}")
    counts = {name: sum(f.severity == name for f in report.findings) for name in ("error", "warning")}
    said = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)
    return "\n".join([*lines, said or "nothing wrong found"])
