"""The measured wavefront: which rank evaluated which iteration when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.report.bound import even_steps
from pint_diffusion.report.figure import new_figure
from pint_diffusion.report.summary import MESSAGE_KINDS, bound_text, counts_points
from pint_diffusion.runtime.events import EVALUATION_KINDS
from pint_diffusion.store.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 11.0, 0.62, 1.75, 0.62, 0.5  # inches: margins of the axes
_BODY_FROM, _BODY = 0.05, 0.79  # where a lane's boxes lie; a lane is 1 high
_STRIPS = {b"send": (0.86, "#D55E00"), b"recv": (0.92, "#000000")}  # below them: messages
_STRIP = 0.06
_HATCHES = {b"coarse": "//////", b"shared": "xxxx"}
_STRIPES = {b"coarse": (0.25, 0.5, 0.75), b"shared": (0.5,)}  # heights in a box
_MOST_HATCHED = 500
_WAIT, _NO_ITERATION = "#e6e6e6", "#999999"
_MANY = 9  # iterations, from which on a colour bar replaces the legend's entries


def draw_wavefront(record: RunRecord, path: str | Path) -> None:
    """Draw the measured Gantt chart of a run as one PNG.

    Every rank is a lane, rank 0 at the top. A box is a network evaluation, and its colour is the
    iteration. Hatched boxes are coarse solves. Cross-hatched ones serve a coarse and a fine solve
    at once. Pale ones belong to iterations beyond the answer (speculation). A rank with several
    slices has a sub-lane for each, and one for its coarse solves of other slices. Rows of one
    batched call share the height of their sub-lane. Grey is waiting; messages are strips at the
    lower edge of the lane.

    Parameters
    ----------
    record : RunRecord
        The finished run. Time and memory grow linearly with the number of its events.
    path : path
        The file to write, ``wavefront.png``.
    """
    ranks, events = max(1, int(record.facts["ranks"])), record.events
    evaluations = events[np.isin(events["kind"], EVALUATION_KINDS)]
    sublane, sublanes = _sublanes(evaluations, ranks)
    inches = float(np.clip(0.12 * sublanes.sum() + 0.18 * ranks, 2.6, 14.0))
    if ranks <= 16:
        inches = max(inches, min(0.48 * ranks, 6.0))
    height = inches + _TOP + _BOTTOM
    figure = new_figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    across = 1 - (_LEFT + _RIGHT) / _WIDTH
    axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / height, across, inches / height))
    _draw_frame(axes, record, ranks, inches / ranks)
    if events.size:
        span = float(events["stop"].max()) or 1.0
        axes.set_xlim(0.0, span)
        pixel = span / (across * _WIDTH * _DPI)
        _draw_waits(axes, events)
        hatches: dict[bytes, str] = {}
        if evaluations.size:
            boxes = _boxes(evaluations, sublane, sublanes)
            hatches = _draw_evaluations(axes, record, evaluations, boxes, pixel)
            if int(sublanes.max()) > 1:
                room = inches / ranks * _DPI * _BODY / sublanes
                _draw_slice_numbers(axes, record, evaluations, boxes, room, pixel)
        _draw_messages(axes, events, pixel)
        _draw_legend(figure, axes, record, events, hatches)
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no events were recorded", transform=axes.transAxes, ha="center")
    figure.savefig(path, format="png")


def _sublanes(evaluations: NDArray[Any], ranks: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the sub-lane of every evaluation, and the number of sub-lanes of every rank."""
    sublane = np.zeros(evaluations.size, dtype=np.intp)
    count = np.ones(ranks, dtype=np.intp)
    for rank in range(ranks):
        mine = np.flatnonzero(evaluations["rank"] == rank)
        slices = evaluations["slice"][mine]
        owned = np.unique(slices[evaluations["kind"][mine] != b"coarse"])
        if owned.size > 1:
            place = np.searchsorted(owned, slices)
            foreign = ~np.isin(slices, owned)
            place[foreign] = owned.size
            sublane[mine], count[rank] = place, owned.size + foreign.any()
    return sublane, count


def _boxes(
    evaluations: NDArray[Any], sublane: NDArray[np.intp], sublanes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return rectangles (x0, x1, y0, y1) of the evaluations; rows of one call are stacked."""
    e = evaluations
    order = np.lexsort((e["slice"], e["iteration"], e["stop"], e["start"], sublane, e["rank"]))
    call = np.stack([e["rank"], sublane, e["start"], e["stop"]], axis=1)[order]
    first = np.concatenate([[True], (call[1:] != call[:-1]).any(axis=1)])
    begins, group = np.flatnonzero(first), np.cumsum(first) - 1
    rows = np.diff(np.append(begins, e.size))
    level, of = np.empty(e.size), np.empty(e.size)
    level[order], of[order] = np.arange(e.size) - begins[group], rows[group]
    high = _BODY / sublanes[e["rank"]]
    top = e["rank"] + _BODY_FROM + high * (sublane + level / of)
    return np.stack([e["start"], e["stop"], top, top + high / of], axis=1)


def _add_rectangles(axes: Axes, boxes: NDArray[np.float64], **style: Any) -> None:
    """Add rectangles (x0, x1, y0, y1) as one collection."""
    from matplotlib.collections import PolyCollection

    x0, x1, y0, y1 = boxes.T
    corners = np.stack([np.stack([x0, x1, x1, x0], 1), np.stack([y0, y0, y1, y1], 1)], 2)
    axes.add_collection(PolyCollection(corners, **style), autolim=False)  # type: ignore[arg-type]


def _draw_frame(axes: Axes, record: RunRecord, ranks: int, lane: float) -> None:
    """Draw lanes, ticks and title."""
    facts = record.facts
    axes.set_ylim(ranks if ranks > 1 else _BODY_FROM + _BODY + 0.05, 0)  # 1 rank: no messages
    every = int(np.ceil(0.13 / lane))  # inches a tick label needs
    axes.set_yticks(np.arange(0, ranks, every) + _BODY_FROM + _BODY / 2)
    axes.set_yticklabels([str(rank) for rank in range(0, ranks, every)], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("rank", fontsize=9)
    axes.set_xlabel("time since the ranks' common start (s)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.hlines(np.arange(ranks), 0, 1, transform=axes.get_yaxis_transform(), colors="0.8", lw=0.5)
    b, m = even_steps(record.bounds.tolist()), record.bounds.size - 1
    size = f" of B = {b}" if b else " (uneven)"
    k = f", k = {facts['iterations']}" if facts.get("iterations") else ""
    how = facts["options"] or f"M = {m} slices{size}"
    title = f"N = {record.bounds[-1]} steps, {how}{k}, {ranks} rank"
    parts = [f"bound {bound}"] if (bound := bound_text(record)) else []
    if "calls_deep" in facts:
        parts.insert(0, f"{facts['calls_deep']} network calls deep")
    if "wall_time" in facts:
        parts.append(f"wall time {facts['wall_time']:.3g} s")
    text = f"{title}{'s' if ranks > 1 else ''}\n{', '.join(parts)}"
    axes.set_title(text, fontsize=10, loc="left", linespacing=1.4)


def _draw_waits(axes: Axes, events: NDArray[Any]) -> None:
    waits = events[events["kind"] == b"wait"]
    top = waits["rank"] + _BODY_FROM
    boxes = np.stack([waits["start"], waits["stop"], top, top + _BODY], axis=1)
    _add_rectangles(axes, boxes, facecolors=_WAIT, linewidths=0)


def _draw_evaluations(
    axes: Axes, record: RunRecord, e: NDArray[Any], boxes: NDArray[np.float64], pixel: float
) -> dict[bytes, str]:
    """Draw the boxes, with a hatch or stripes by kind; return the hatches for the legend.

    Narrow boxes have no edges, which would hide them. Many or narrow boxes have stripes instead of
    a hatch: Agg takes a millisecond for every hatched path.
    """
    colours = _colours(e)[e["iteration"] + 1]
    ahead = _ahead(record, e)
    colours[ahead] = _pale(colours[ahead])
    plain: dict[str, Any] = {"linewidths": 0.0, "antialiaseds": False}
    wide = float(np.median(boxes[:, 1] - boxes[:, 0])) >= 8 * pixel
    edges = {"linewidths": 0.5, "edgecolors": "white"} if wide else plain
    if wide and (e["kind"] != b"fine").sum() <= _MOST_HATCHED:
        for kind in EVALUATION_KINDS:
            of, hatch = e["kind"] == kind, _HATCHES.get(kind)
            _add_rectangles(axes, boxes[of], facecolors=colours[of], hatch=hatch, **edges)
        return _HATCHES
    _add_rectangles(axes, boxes, facecolors=colours, **edges)
    for kind, heights in _STRIPES.items():
        x0, x1, y0, y1 = boxes[e["kind"] == kind].T
        for height in heights:
            top, bottom = (y0 + (y1 - y0) * (height + d) for d in (-0.06, 0.06))
            _add_rectangles(axes, np.stack([x0, x1, top, bottom], 1), facecolors="white", **plain)
    return {b"coarse": "----", b"shared": "--"}


def _colours(events: NDArray[Any]) -> NDArray[np.float64]:
    """Return the RGB colours of iterations -1 (none), 0, 1, ... up to the last in the events."""
    import matplotlib
    from matplotlib.colors import to_rgb

    last = max(0, int(events["iteration"].max()))
    scale = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.88, max(last + 1, 4)))
    return np.concatenate([[to_rgb(_NO_ITERATION)], scale[:, :3]])


def _pale(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.35 * colours + 0.65


def _ahead(record: RunRecord, e: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark evaluations that the answer u_M^k does not need: F(u^k), and all after iteration k."""
    if counts_points(record) or not record.facts["iterates"] or "iterations" not in record.facts:
        return np.zeros(e.size, dtype=np.bool_)
    k = int(record.facts["iterations"])
    return (e["iteration"] > k) | ((e["iteration"] == k) & (e["kind"] == b"fine"))


def _draw_slice_numbers(
    axes: Axes,
    record: RunRecord,
    e: NDArray[Any],
    boxes: NDArray[np.float64],
    room: NDArray[np.float64],
    pixel: float,
) -> None:
    """Write the number of the slice into the first full-height box of a solve, if it fits."""
    colours, ahead = _colours(e), _ahead(record, e)
    fine = np.flatnonzero(e["kind"] != b"coarse")
    high = np.round(boxes[fine, 3] - boxes[fine, 2], 9)
    e, boxes, ahead = e[fine], boxes[fine], ahead[fine]
    order = np.lexsort((e["start"], -high, e["iteration"], e["slice"], e["rank"]))
    key = np.stack([e["rank"], e["slice"], e["iteration"]], axis=1)[order]
    _, first, count = np.unique(key, axis=0, return_index=True, return_counts=True)
    for i, evaluations in zip(order[first], count, strict=True):
        x0, x1, y0, y1 = boxes[i]
        if room[e["rank"][i]] >= 12 and (x1 - x0) * evaluations >= 18 * pixel:
            dark = colours[e["iteration"][i] + 1] @ (0.3, 0.6, 0.1) < 0.55 and not ahead[i]
            axes.text(
                x0 + 4 * pixel,
                (y0 + y1) / 2,
                str(e["slice"][i]),
                color="white" if dark else "black",
                fontsize=6.5,
                va="center_baseline",
            )


def _draw_messages(axes: Axes, events: NDArray[Any], pixel: float) -> None:
    """Draw strips below the boxes, at least two pixels wide."""
    for kind, (offset, colour) in _STRIPS.items():
        rows = events[events["kind"] == kind]
        top = rows["rank"] + offset
        stop = np.maximum(rows["stop"], rows["start"] + 2 * pixel)
        boxes = np.stack([rows["start"], stop, top, top + _STRIP], axis=1)
        _add_rectangles(axes, boxes, facecolors=colour, linewidths=0, antialiaseds=False)


def _draw_legend(
    figure: Figure, axes: Axes, record: RunRecord, events: NDArray[Any], hatches: dict[bytes, str]
) -> None:
    """Draw the legend of colours, hatches and strips to the right of the axes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds, rounds = set(np.unique(events["kind"])), counts_points(record)
    e = events[np.isin(events["kind"], EVALUATION_KINDS)]
    handles: list[Any] = []
    colours = _colours(e) if e.size else np.empty((0, 3))
    present = np.unique(e["iteration"])
    bar = present.size > _MANY
    for k in present:
        if k < 0 or not bar:
            label = f"round {k + 1}" if rounds else f"iteration k = {k}"
            label = label if k >= 0 else "no iteration"
            handles.append(Patch(facecolor=colours[k + 1], label=label))
    names = ("fine evaluation", "coarse evaluation", "fine + coarse at once")
    for kind, name in zip(EVALUATION_KINDS, names, strict=True):
        if kind in kinds:
            style: dict[str, Any] = {"facecolor": "0.45", "edgecolor": "white", "linewidth": 0}
            handles.append(Patch(hatch=hatches.get(kind), label=name, **style))
    if e.size and (ahead := _ahead(record, e)).any():
        pale = tuple(_pale(colours[e["iteration"][ahead].min() + 1]).tolist())
        handles.append(Patch(facecolor=pale, label="pale: speculation"))
    if b"wait" in kinds:
        handles.append(Patch(facecolor=_WAIT, label="waiting"))
    for kind, name in zip(MESSAGE_KINDS, ("send", "receive"), strict=True):
        if kind in kinds:
            handles.append(Patch(facecolor=_STRIPS[kind][1], label=f"{name} (lower edge)"))
    if axes.texts:
        column = record.facts["column"]
        handles.append(Line2D([], [], ls="", marker="$n$", color="k", label=f"number: {column}"))
    look = {"borderaxespad": 0, "frameon": False, "handlelength": 1.6, "handleheight": 1.1}
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, **look)
    if bar:
        box = axes.get_position()
        inch = 1 / figure.get_figheight()
        top = box.y1 - (0.21 * len(handles) + 0.2) * inch
        high = min(top - box.y0, 2.5 * inch)
        cax = figure.add_axes((box.x1 + 0.018, top - high, 0.014, high))
        last = int(present[-1])
        norm = BoundaryNorm(np.arange(last + 2) - 0.5, last + 1)
        mappable = ScalarMappable(norm, ListedColormap(colours[1 : last + 2]))
        ticks = np.unique(np.linspace(0, last, 6).astype(int))
        figure.colorbar(
            mappable,
            cax=cax,
            ticks=ticks.tolist(),
            label="round k + 1" if rounds else "iteration k",
        )
