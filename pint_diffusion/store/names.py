"""The names of what a run has in its folder."""

from __future__ import annotations

import re

MASTER = "run.h5"
MANIFEST = "manifest.json"
PARTS = "parts"
"""Folder of the boundary states."""

STREAM = "stream"
"""Folder of the answers that were drawn as they arrived."""

STREAMED = re.compile(r"iteration-([0-9]{2,})\.png")
"""Names of the pictures in it: iteration."""

LOCK = "writer.lock"
RESERVE = "reserve"
PICTURES = ("samples.png", "refinement.png", "wavefront.png")
EVENTS = re.compile(r"events-([0-9]{2,})-([0-9]{4,})\.h5")
"""Names of the event files: segment and rank."""

NEW = ".new"
"""Ends the name of a file that is not whole yet."""


def events_name(segment: int, rank: int) -> str:
    """File name of what a rank did in a segment, beside the master."""
    return f"events-{segment:02d}-{rank:04d}.h5"


def is_of_a_run(name: str) -> bool:
    """Return whether a run would write, replace or delete what has this name in its folder."""
    name = name.removesuffix(NEW)
    fixed = (MASTER, MANIFEST, PARTS, STREAM, LOCK, RESERVE, *PICTURES)
    return name in fixed or EVENTS.fullmatch(name) is not None
