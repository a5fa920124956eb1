"""Memory: the free bytes, and the least that the network and the states will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pint_diffusion.commands.check.facts import Facts
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.memory import amount

TIGHT = 0.8
"""Share of the free memory above which the check warns of a run that fits."""


def memory(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Compare the least memory that the ranks of a host or of a GPU will take with the free one."""
    places: dict[tuple[str, str], list[Facts]] = {}
    for one in facts:
        places.setdefault((one.host, one.uuid), []).append(one)
    for (host, uuid), there in places.items():
        free = min(one.device_free if uuid else one.free for one in there)
        where = f"{there[0].device} of {host}" if uuid else host
        needed = sum(one.needed for one in there)
        if not needed:
            yield Finding("memory", "ok", f"{amount(free)} free on {where}")
            continue
        found = f"{len(there)} rank(s) on {where} need at least {amount(needed)}; "
        found += f"{amount(free)} are free"
        if needed > TIGHT * free:
            level = "fail" if needed > free else "warn"
            to_do = "take fewer --samples; of parareal more hosts, or a rank per slice; of methods "
            to_do += "in rounds a smaller --window, or more --slices"
            yield Finding("memory", level, found, to_do)  # type: ignore[arg-type]
        else:
            yield Finding("memory", "ok", found)
