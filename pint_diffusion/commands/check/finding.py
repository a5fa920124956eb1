"""Findings of the checks, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pint_diffusion.settings.flags import with_flags

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes
    ----------
    name : str
        Subject of the check.
    level : {"ok", "warn", "fail"}
        ``fail``: a run would go wrong. ``warn``: it would be right, but slow or at risk.
    found : str
        The state of the subject, and where.
    to_do : str
        Advice; empty if there is nothing to do.
    """

    name: str
    level: Level
    found: str
    to_do: str = ""

    @property
    def sentence(self) -> str:
        """The finding and the advice, in one line."""
        return f"{self.found}: {self.to_do}" if self.to_do else self.found


def table(findings: Sequence[Finding]) -> str:
    """Return the findings one below the other, and under each the advice."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.to_do:
            lines.append(f"{'':<{width + 8}}-> {finding.to_do}")
    return with_flags("\n".join([*lines, "", verdict(findings)]))


def verdict(findings: Sequence[Finding]) -> str:
    """Return the number of fails and warnings in one line."""
    fails, warns = (sum(f.level == level for f in findings) for level in ("fail", "warn"))
    first = f"wrong: {fails}" if fails else "nothing is wrong"
    return f"{first}, warnings: {warns}" if warns else first
