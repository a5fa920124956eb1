"""The plain text table that ends a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.report.bound import dataflow_bound, even_steps
from pint_diffusion.runtime.events import EVALUATION_KINDS
from pint_diffusion.store.record import RunRecord

MESSAGE_KINDS = (b"send", b"recv")
_RANKS_LISTED = 8


class Shares(NamedTuple):
    """The time of one rank from 0 to the last event of any rank, in seconds.

    Attributes
    ----------
    evaluating : float
        Seconds in network calls.
    waiting : float
        Seconds of waiting for values.
    rest : float
        All other seconds.
    messages : float
        Seconds with a message under way; they overlap the other three.
    """

    evaluating: float
    waiting: float
    rest: float
    messages: float


def summary_table(record: RunRecord) -> str:
    """Return the summary of a run: what it did, how long it took, how good the answer is.

    Parameters
    ----------
    record : RunRecord
        The finished run.

    Returns
    -------
    str
        Lines of at most about 100 characters, no newline at the end.
    """
    rows = [*_what_ran(record), *_how_it_stopped(record), *_what_it_cost(record)]
    rows += _how_long_it_took(record)
    if record.sequential is not None:
        rows.append(("error against sequential", _error_text(record)))
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{text}" for name, text in rows]
    return "\n".join([*_warnings(record), *lines, *_time_table(record), *_notes(record)])


def mean_difference(a: NDArray[Any], b: NDArray[Any], data_range: Sequence[float]) -> float:
    """Return the mean of ``|a - b|`` in 1/255 of the data range."""
    low, high = (float(x) for x in data_range)
    return float(np.abs(a.astype(np.float64) - b).mean() * 255.0 / (high - low))


def time_shares(events: NDArray[Any], ranks: int) -> list[Shares]:
    """Divide every rank's time into evaluating, waiting and the rest.

    The function first unites the intervals of one kind: the rows of a batched network call share
    one interval and count once.

    Parameters
    ----------
    events : array of `EVENT_DTYPE`, shape (rows,)
        Events of all ranks.
    ranks : int
        Number of ranks; a rank without events has spent all its time on the rest.

    Returns
    -------
    list of Shares, length ``ranks``
    """
    span = float(events["stop"].max()) if events.size else 0.0
    shares = []
    for rank in range(ranks):
        mine = events[events["rank"] == rank]
        evaluating = mine[np.isin(mine["kind"], EVALUATION_KINDS)]
        busy = mine[np.isin(mine["kind"], (*EVALUATION_KINDS, b"wait"))]
        messages = mine[np.isin(mine["kind"], MESSAGE_KINDS)]
        worked, covered = _union(evaluating), _union(busy)
        shares.append(Shares(worked, covered - worked, span - covered, _union(messages)))
    return shares


def _union(rows: NDArray[Any]) -> float:
    """Return the length of the union of the rows' intervals, from time 0 on, in seconds."""
    if not rows.size:
        return 0.0
    rows = rows[np.argsort(rows["start"], kind="stable")]
    start, stop = np.maximum(rows["start"], 0.0), np.maximum(rows["stop"], 0.0)
    reached = np.concatenate([[0.0], np.maximum.accumulate(stop)[:-1]])
    return float(np.maximum(stop - np.maximum(start, reached), 0.0).sum())


def _converged(record: RunRecord) -> bool:
    """Return whether the run met the tolerance or the answer is exact."""
    return bool(record.facts["converged"]) or bool(record.facts.get("exact", False))


def _warnings(record: RunRecord) -> list[str]:
    """Return the warning that stands above the summary of a run that has not converged."""
    lines = []
    facts = record.facts
    if not _converged(record):
        missed = int((record.stopped_at == 0).sum())
        k, instead = int(facts["iterations"]), " or --tolerance"
        did = f"never changed by less than {facts['tolerance']:g} {facts['tolerance_unit']}"
        if counts_points(record):
            did, instead = f"did not reach step {record.bounds[-1]}", ""
        lines.append(
            f"*** NOT CONVERGED after {k} {_unit(record, k)}: {missed} of "
            f"{_samples(len(record.samples))} {did}."
            f"\n*** Raise --max-iterations ({facts['enough_iterations']} are always enough)"
            f"{instead}."
        )
    return lines


def _notes(record: RunRecord) -> list[str]:
    """Return a note on what the figures above do not show."""
    cores = record.facts.get("cores_per_rank", 1)
    if cores >= 1:
        return []
    return [
        "",
        f"The ranks share cores ({cores:.2g} each), so the wall clock does not show what a device "
        "per rank\nwould give; `evaluations deep` does.",
    ]


def _what_ran(record: RunRecord) -> list[tuple[str, str]]:
    config, facts = record.config, record.facts
    steps, slices = int(record.bounds[-1]), record.bounds.size - 1
    b = even_steps(record.bounds.tolist())
    if b is None:
        lengths = np.diff(record.bounds)
        per_slice = f"of {lengths.min()} to {lengths.max()} steps"
    else:
        per_slice = f"of {b} step{'s' if b > 1 else ''}"
    hosts = list(dict.fromkeys(facts.get("hosts", [])))
    devices = Counter(facts.get("devices", []))
    where = f" on {_some(hosts)}" if hosts else ""
    if devices:
        where += ", " + _some([name if c == 1 else f"{c} x {name}" for name, c in devices.items()])
    rows = [
        ("method", str(facts["method"])),
        ("solver", _solvers(record)),
        ("model", str(config.get("model") or "bundled")),
        ("steps N", str(steps)),
        *([("options", str(facts["options"]))] if facts["options"] else []),
        *([("slices M", f"{slices} {per_slice}")] if facts["uses_coarse"] else []),
        ("samples", f"{record.samples.shape[0]} of shape {record.samples.shape[1:]}"),
        ("ranks", f"{facts['ranks']}{where}"),
    ]
    if is_resumed(record):
        after = int(facts["resumed_after"])
        begun = f"went on after iteration {after}" if after >= 0 else "began anew"
        rows.append(("resumed", f"{begun}; counts and times below are of this part"))
    if facts.get("status", "finished") not in ("finished", "not converged"):
        rows.append(("status", str(facts["status"])))
    return rows


def _solvers(record: RunRecord) -> str:
    facts = record.facts
    if not facts["uses_coarse"]:
        return str(facts["solver"])
    noise = ", summed noise" if facts.get("summed_noise") else ""
    return f"{facts['solver']}, coarse {facts['coarse_solver']}{noise}"


def _how_it_stopped(record: RunRecord) -> list[tuple[str, str]]:
    facts = record.facts
    k, sweeps = int(facts["iterations"]), record.config["method"].get("sweeps")
    if not len(record.change):
        return []
    if facts.get("exact"):
        ending = f"exact after {k} {_unit(record, k)}"
    elif not facts["converged"]:
        ending = "NOT CONVERGED"
    else:
        ending = f"done, {sweeps} sweeps of every slice" if sweeps else "converged"
    unit = facts["tolerance_unit"]
    tolerance = f"{facts['tolerance']:g} {unit}"
    if sweeps:
        tolerance = "none, slices ended after their sweeps"
    change = f"{record.change[-1].max():.3g} {unit} (worst sample), tolerance {tolerance}"
    rows = [
        (_unit(record), f"{k}, {ending}"),
        ("tolerance", tolerance) if counts_points(record) else (f"change at iteration {k}", change),
    ]
    stops = Counter(record.stopped_at.tolist())
    if len(stops) > 1:
        never = stops.pop(0, 0)
        parts = [f"{at} ({_samples(count)})" for at, count in sorted(stops.items())]
        if never:
            rest = f"exact at {k}" if facts.get("exact") else "none"
            parts.append(f"{rest} ({_samples(never)})")
        rows.append(("samples stopped at", ", ".join(parts)))
    return rows


def _what_it_cost(record: RunRecord) -> list[tuple[str, str]]:
    facts = record.facts
    needed, wasted = int(facts["evaluations"]), int(facts["evaluations_wasted"])
    share = f" ({100 * wasted / (needed + wasted):.1f} % of all)" if wasted else ""
    deep = str(facts["evaluations_deep"])
    if bound := bound_text(record):
        deep += f" (bound {bound})"
    return [
        ("evaluations", f"{needed} for the answer, {wasted} wasted by speculation{share}"),
        ("evaluations deep", deep),
        ("calls deep", f"{facts['calls_deep']} on these ranks"),
    ]


def bound_text(record: RunRecord) -> str:
    """Return the dataflow bound of a Parareal run with its formula; empty for other methods."""
    k = int(record.facts.get("iterations", 0))
    if not record.facts["uses_coarse"] or is_resumed(record):
        return ""
    fine, coarse = (record.facts[f"{kind}_evaluations"] for kind in ("fine", "coarse"))
    value = dataflow_bound(fine, coarse, k)
    if len({*fine}) > 1 or len({*coarse}) > 1:
        return f"{value} (slices differ)"
    name = "B" if fine[0] == even_steps(record.bounds.tolist()) else "F"
    return f"{f'k{name} + M - k' if coarse[0] == 1 else f'k{name} + (M - k)C'} = {value}"


def counts_points(record: RunRecord) -> bool:
    """Return whether the iterations are rounds, with a number of points behind each sample."""
    return bool(record.facts["counts"] == "points")


def _unit(record: RunRecord, count: int = 2) -> str:
    one = "round" if counts_points(record) else "iteration"
    return one if count == 1 else f"{one}s"


def is_resumed(record: RunRecord) -> bool:
    """Return whether the run was resumed: its counts are those of the last segment only."""
    return int(record.facts.get("segment", 0)) > 0


def _how_long_it_took(record: RunRecord) -> list[tuple[str, str]]:
    facts, walk = record.facts, sum(record.facts["fine_evaluations"])
    wall, sequential = float(facts["wall_time"]), facts.get("sequential_wall_time")
    rows = []
    if facts.get("start_up_time") is not None:
        rows.append(("start-up", f"{_seconds(float(facts['start_up_time']))} before the clock"))
    rows.append(("wall time", _seconds(wall)))
    if facts.get("evaluation_time") is not None:
        rows.append(("one network call", _seconds(float(facts["evaluation_time"])) + " (mean)"))
    parallel = facts["iterates"]
    if sequential is None and parallel and not is_resumed(record):
        rows.append(("speed-up", "not measured; --verify also runs the sequential sampler"))
    if sequential is not None:
        rows.append(("sequential wall time", _seconds(float(sequential))))
        if not is_resumed(record):
            rows.append(("speed-up", f"{float(sequential) / wall:.2f}x (measured)"))
    if parallel and not is_resumed(record):
        deep, calls = int(facts["evaluations_deep"]), int(facts["calls_deep"])
        text = f"{walk / deep:.2f}x by evaluations deep, {walk / calls:.2f}x by calls deep"
        rows.append(("predicted speed-up", f"{text} (estimate: {walk} / deep, batching free)"))
    return rows


def _error_text(record: RunRecord) -> str:
    truth = record.sequential
    assert truth is not None
    if np.array_equal(record.samples, truth):
        return "none, equal bit for bit"
    difference = record.samples.astype(np.float64) - truth
    norm = float(np.linalg.norm(truth.astype(np.float64)))
    relative = float(np.linalg.norm(difference)) / norm if norm else float("inf")
    mean = mean_difference(record.samples, truth, record.facts["data_range"])
    return (
        f"max abs {np.abs(difference).max():.2g}, relative L2 {relative:.2g}, mean {mean:.2g} / 255"
    )


def _time_table(record: RunRecord) -> list[str]:
    """Return the table of `time_shares`: a line per rank, or three statistics of many ranks."""
    if not record.events.size:
        return []
    span = float(record.events["stop"].max()) or 1.0
    table = np.array(time_shares(record.events, int(record.facts["ranks"])))
    if len(table) <= _RANKS_LISTED:
        named = [(f"rank {rank}", row) for rank, row in enumerate(table)]
    else:
        statistics = (("minimum", np.min), ("median", np.median), ("maximum", np.max))
        named = [(name, statistic(table, axis=0)) for name, statistic in statistics]
    over = f" over {len(table)} ranks" if len(table) > _RANKS_LISTED else ""
    lines = [
        "",
        f"where the time went{over} (100 % = {_seconds(span)}; messages overlap the rest)",
        f"{'':10}{'evaluating':>12}{'waiting':>12}{'other':>12}{'messages':>12}",
    ]
    for name, (evaluating, waiting, rest, messages) in named:
        shares = "".join(f"{100 * x / span:10.1f} %" for x in (evaluating, waiting, rest))
        lines.append(f"{name:10}{shares}{_seconds(messages):>12}")
    return lines


def _seconds(time: float) -> str:
    """Return seconds with three significant digits and a suitable unit."""
    if time >= 100:
        return f"{time:.0f} s"
    return f"{time:.3g} s" if time >= 1 or time == 0 else f"{1e3 * time:.3g} ms"


def _samples(count: int) -> str:
    return f"{count} sample{'' if count == 1 else 's'}"


def _some(names: list[str], most: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
