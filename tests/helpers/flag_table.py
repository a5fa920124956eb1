"""The tables of flags in docs/running.md, made from the fields.

python tests/helpers/flag_table.py    writes them into the page
"""

from __future__ import annotations

from pathlib import Path

from pint_diffusion.settings import flags
from pint_diffusion.settings.help import default_text, flags_of_all, form
from pint_diffusion.settings.run import Settings

PAGE = Path(__file__).parents[2] / "docs" / "running.md"
BEGIN, END = "### options\n", "## YAML\n"


def tables() -> str:
    """Write a section for every group; classes with the same options share one."""
    known = [*flags.flags_of(Settings, {}), *flags_of_all(Settings.choices)]
    rows: dict[str, list[str]] = {}
    for flag in sorted(known, key=lambda flag: flags.place_of(flag.group)):
        written = "" if flag.is_switch else form(flag.field.annotation)
        values = ", ".join(f"`{one}`" for one in written.split("|")) if written else "switch"
        default = default_text(flag) or "none"
        default = {"True": "yes", "False": "no"}.get(default, default)
        cells = f"`{flag.dashed}`", values, default, flag.field.description
        rows.setdefault(flag.group, []).append(f"| {' | '.join(map(str, cells))} |")
    alike: dict[tuple[str, ...], list[str]] = {}
    for group, lines in rows.items():
        alike.setdefault(tuple(lines), []).append(group)
    text = ""
    for lines, (first, *others) in alike.items():
        title = ", ".join([first, *(other.split()[1] for other in others)])
        text += f"### {title}\n\n| flag | value | default | meaning |\n|---|---|---|---|\n"
        text += "\n".join(lines) + "\n\n"
    return text


if __name__ == "__main__":
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(before + tables() + after)
