"""What a check finds, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pint_diffusion.settings.flags import as_flags

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes
    ----------
    name : str
        What was looked at.
    level : {"ok", "warn", "fail"}
        ``fail``: a run would go wrong. ``warn``: it would be right, but slow or at risk.
    found : str
        What is the case, and where.
    to_do : str
        How to change it; empty if nothing needs to be done.
    """

    name: str
    level: Level
    found: str
    to_do: str = ""

    @property
    def sentence(self) -> str:
        """What was found and what to do, in one line."""
        return f"{self.found}: {self.to_do}" if self.to_do else self.found


def table(findings: Sequence[Finding]) -> str:
    """Write findings one below the other, and under each what to do."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.to_do:
            lines.append(f"{'':<{width + 8}}-> {finding.to_do}")
    return as_flags("\n".join([*lines, "", verdict(findings)]))


def verdict(findings: Sequence[Finding]) -> str:
    """Say in one line how it stands."""
    fails, warns = (sum(f.level == level for f in findings) for level in ("fail", "warn"))
    first = f"wrong: {fails}" if fails else "nothing is wrong"
    return f"{first}, warnings: {warns}" if warns else first


def amount(size: float) -> str:
    """Bytes, in the unit that suits them."""
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
