"""The table of faults in docs/running.md, made from `helpers.faults`.

python tests/helpers/fault_table.py    writes it into the page
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from helpers.faults import FAULTS, MOMENTS, End, Fault

PAGE = Path(__file__).parents[2] / "docs" / "running.md"
BEGIN, END = "<!-- faults: tests/helpers/fault_table.py -->\n", "<!-- end of faults -->\n"
TRANSPORTS = {"local": "one process", "mpi": "ranks"}
WORDS = {
    "loading": "loading",
    "first": "first call",
    "middle": "mid-run",
    "checkpoint": "writing",
    "stop": "answer known",
    "verify": "verifying",
}


def table() -> str:
    """Write a row for every way in which a fault ends a run."""
    text = "| what happens | when | the run | what is said | exit code | within | what to do |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for fault in FAULTS.values():
        named = fault.told
        for end, when in ways(fault).items():
            said = f"{end.told}" or "nothing"
            within = end.within or (f"{end.seconds} s" if end.outcome != "goes on" else "")
            cells = named, when, end.outcome, said, codes(end), within, fault.do
            text += f"| {' | '.join(cells)} |\n"
            named = ""
    return text


def ways(fault: Fault) -> dict[End, str]:
    """Return the ends of a fault, and when each is."""
    met = [
        (moment, transport)
        for moment, transport in product(MOMENTS, TRANSPORTS)
        if not {moment, transport} & fault.without.keys()
    ]
    moments = list(dict.fromkeys(moment for moment, _ in met))
    transports = list(dict.fromkeys(transport for _, transport in met))
    found: dict[End, list[tuple[str, str]]] = {}
    for moment, transport in met:
        for end in fault.at(moment, transport):
            found.setdefault(end, []).append((moment, transport))
    told = {}
    for end, places in found.items():
        these = list(dict.fromkeys(moment for moment, _ in places))
        on = list(dict.fromkeys(transport for _, transport in places))
        words = [TRANSPORTS[one] for one in on] if on != transports else []
        words += [WORDS[one] for one in these] if these != moments else []
        told[end] = ", ".join(words) or "at any moment"
    return told


def codes(end: End) -> str:
    """Write exit codes as a shell shows them."""
    first, *others = (128 - code if code < 0 else code for code in end.codes)
    return f"{first}, or the launcher's" if others else str(first)


if __name__ == "__main__":
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    PAGE.write_text(before + table() + after)
