"""Pictures of the samples, and of how the iterations refine them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.report.figure import new_figure
from pint_diffusion.report.summary import mean_difference
from pint_diffusion.store.record import RunRecord

_TILE = 112
"""Pixels of a small picture after its enlargement by a whole number, about."""
_GAP = 4
_SIDE = 8192
"""Longest side of samples.png in pixels; the picture says so if samples do not fit."""
_COLUMNS = 10
_ROWS = 4
_DPI = 150


def draw_samples(record: RunRecord, path: str | Path) -> None:
    """Draw the samples of a run as one PNG, see `draw_answer`."""
    draw_answer(record.samples, record.facts["data_range"], path)


def draw_answer(samples: NDArray[Any], data_range: Sequence[float], path: str | Path) -> None:
    """Draw samples as one PNG.

    Pictures, (1|3, H, W) or (H, W), make a near-square grid. The data range goes from black to
    white; not-a-number is magenta. Latents, (4+, H, W), show their first three channels,
    normalised over all samples. Other data make a scatter plot of their first two values, or a
    histogram if there is only one value.

    Parameters
    ----------
    samples : array, shape (S, *shape)
        The samples.
    data_range : two floats
        Least and greatest value of clean data.
    path : path
        The file to write.
    """
    if not _is_picture(samples.shape[1:]):
        _draw_points([("samples", samples)], data_range, path)
        return
    from PIL import Image, ImageDraw

    tiles = _pixels(samples, samples, data_range)
    total, height, width = tiles.shape[:3]
    scale = max(1, round(_TILE / max(height, width)))
    columns = int(np.ceil(np.sqrt(total * height / width)))
    columns = min(max(1, columns), total, max(1, (_SIDE - _GAP) // (scale * width + _GAP)))
    rows = min(-(-total // columns), max(1, (_SIDE - _GAP) // (scale * height + _GAP)))
    shown = min(total, rows * columns)
    step_y, step_x = scale * height + _GAP, scale * width + _GAP
    note = 20 if shown < total else 0
    canvas = np.full((rows * step_y + _GAP + note, columns * step_x + _GAP, 3), 255, np.uint8)
    for i in range(shown):
        y, x = _GAP + i // columns * step_y, _GAP + i % columns * step_x
        big = tiles[i].repeat(scale, axis=0).repeat(scale, axis=1)
        canvas[y : y + scale * height, x : x + scale * width] = big
    picture = Image.fromarray(canvas)
    if note:
        text = f"the first {shown} of {total} samples"
        ImageDraw.Draw(picture).text((_GAP, rows * step_y + _GAP), text, fill=(0, 0, 0))
    picture.save(path, format="PNG")


def draw_refinement(record: RunRecord, path: str | Path) -> None:
    """Draw the answer u_M^k of every iteration k, beside the sequential sampler's, as one PNG.

    Under each picture stands its mean absolute difference to the sequential answer, or to the
    last iteration if there is none, in 1/255 of the data range. The first samples are the rows. Of
    more than ten columns the picture has the first ones and the last.

    Parameters
    ----------
    record : RunRecord
        The finished run.
    path : path
        The file to write, ``refinement.png``.
    """
    columns = _columns(record)
    if _is_picture(record.samples.shape[1:]):
        _draw_strip(record, columns, path)
    else:
        _draw_points(columns, record.facts["data_range"], path)


def _columns(record: RunRecord) -> list[tuple[str, NDArray[Any]]]:
    """Return titles and answers (S, *shape) of the columns; the reference comes last."""
    room = _COLUMNS - (record.sequential is not None)
    if record.boundary is None:
        columns = [(f"k = {record.facts.get('iterations', 0)}", record.samples)]
    else:
        last = record.boundary.shape[0] - 1
        picks = [*range(min(last, room - 1)), last]
        columns = [(f"k = {k}", np.asarray(record.boundary[k, -1])) for k in picks]
    if record.sequential is not None:
        columns.append(("sequential", record.sequential))
    return columns


def _draw_strip(record: RunRecord, columns: list[tuple[str, NDArray[Any]]], path: Any) -> None:
    """Draw pictures in rows (samples) and columns (iterations), placed to the pixel."""
    reference = columns[-1][1]
    apart = 28 if record.sequential is not None else 0
    rows = min(_ROWS, len(record.samples))
    data_range = record.facts["data_range"]
    pixels = [_pixels(answers[:rows], record.samples, data_range) for _, answers in columns]
    height, width = pixels[0].shape[1:3]
    side = max(height, width)
    scale = max(1, round(1.5 * _TILE / side)) if side <= 256 else 256 / side
    tall, wide = int(scale * height), int(scale * width)
    cell = max(wide, 150)  # room for the label
    title, label, gap = 40, 42, 10
    total_x = 2 * gap + len(columns) * (cell + gap) - gap + apart
    total_y = title + rows * (tall + label)
    figure = new_figure(figsize=(total_x / _DPI, total_y / _DPI), dpi=_DPI, facecolor="white")
    for j, (name, answers) in enumerate(columns):
        is_reference = j == len(columns) - 1
        left = gap + j * (cell + gap) + (cell - wide) // 2 + (apart if is_reference else 0)
        for i in range(rows):
            bottom = total_y - title - i * (tall + label) - tall
            axes = figure.add_axes(
                (left / total_x, bottom / total_y, wide / total_x, tall / total_y)
            )
            smooth = "nearest" if scale >= 1 else "antialiased"
            axes.imshow(pixels[j][i], interpolation=smooth, aspect="auto")
            axes.set_axis_off()
            if i == 0:
                axes.set_title(name, fontsize=9, pad=5)
            text = _label(answers[i], reference[i], data_range, is_reference)
            axes.text(
                0.5, -8 / tall, text, transform=axes.transAxes, ha="center", va="top", fontsize=8
            )
    if apart:
        from matplotlib.lines import Line2D

        x = (gap + (len(columns) - 1) * (cell + gap) + (apart - gap) / 2) / total_x
        ends = (label / 2 / total_y, 1 - title / 4 / total_y)
        figure.add_artist(Line2D((x, x), ends, color="0.7", linewidth=0.8))
    figure.savefig(path, format="png")


def _draw_points(
    columns: list[tuple[str, NDArray[Any]]], data_range: Sequence[float], path: Any
) -> None:
    """Draw one scatter plot or histogram of all samples per column, on common axes."""
    clouds = [answers.reshape(len(answers), -1).astype(np.float64) for _, answers in columns]
    plane = clouds[0].shape[1] >= 2
    across = min(5, len(columns))
    down = -(-len(columns) // across)
    size = (2.4 * across, 2.7 * down) if len(columns) > 1 else (5.0, 5.0)
    figure = new_figure(figsize=size, dpi=_DPI, layout="compressed", facecolor="white")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    reference = clouds[-1]
    finite = reference[np.isfinite(reference)]
    edges = np.histogram_bin_edges(finite, bins=40) if finite.size else np.linspace(0, 1, 41)
    dot = float(np.clip(2000 / max(1, len(reference)), 1, 25))
    for j, ((name, answers), cloud) in enumerate(zip(columns, clouds, strict=True)):
        axes, is_reference = panels[j], j == len(columns) - 1
        if plane:
            if not is_reference:
                axes.scatter(reference[:, 0], reference[:, 1], s=dot, color="0.8", linewidths=0)
            axes.scatter(cloud[:, 0], cloud[:, 1], s=dot, color="#0072B2", linewidths=0, alpha=0.7)
            axes.set_aspect("equal", adjustable="box")
        else:
            inside = np.clip(np.nan_to_num(cloud[:, 0]), edges[0], edges[-1])
            axes.hist(inside, bins=edges.tolist(), color="#0072B2", alpha=0.7)
            if not is_reference:
                axes.hist(reference[:, 0], bins=edges.tolist(), color="0.3", histtype="step")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        if len(columns) > 1:
            text = _label(answers, columns[-1][1], data_range, is_reference)
            axes.set_xlabel(text, fontsize=8)
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    figure.savefig(path, format="png")


def _label(
    answer: NDArray[Any], reference: NDArray[Any], data_range: Sequence[float], is_reference: bool
) -> str:
    if is_reference:
        return "reference"
    if np.array_equal(answer, reference):
        return "identical"
    difference = mean_difference(answer, reference, data_range)
    return f"{difference:.2f} / 255" if difference >= 0.01 else f"{difference:.2g} / 255"


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[0] != 2)


def _pixels(
    answers: NDArray[Any], samples: NDArray[Any], data_range: Sequence[float]
) -> NDArray[np.uint8]:
    """Return states (S, *shape) as RGB pictures, (S, H, W, 3); ``samples`` set latents' limits."""
    shape = samples.shape[1:]
    x = answers.reshape(len(answers), -1, *shape[-2:]).astype(np.float64)
    if x.shape[1] <= 3:
        low, high = (np.float64(value) for value in data_range)
    else:  # latents: the limits are the answer's, so that the columns of a strip compare
        x = x[:, :3]
        limits = np.nanpercentile(samples[:, :3].astype(np.float64), (0.5, 99.5), axis=(0, 2, 3))
        low, high = limits[:, :, None, None]
        high = np.where(high > low, high, low + 1.0)
    grey = np.clip(np.rint((x - low) / (high - low) * 255.0), 0, 255)
    broken = np.isnan(x).any(axis=1)
    rgb = np.broadcast_to(np.nan_to_num(grey), (len(x), 3, *x.shape[2:])).transpose(0, 2, 3, 1)
    rgb = rgb.astype(np.uint8)
    rgb[broken] = (255, 0, 255)
    return rgb
