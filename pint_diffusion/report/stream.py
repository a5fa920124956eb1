"""The stream of answers: a picture of each iteration's, as soon as it is there."""

from __future__ import annotations

import io
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from tqdm import tqdm

from pint_diffusion.errors import StoreError
from pint_diffusion.output import Ended, Output
from pint_diffusion.store.directory import Directory

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pint_diffusion.build.plan import Plan
    from pint_diffusion.runtime.events import EventLog
    from pint_diffusion.runtime.world import World


class Stream(Output):
    """Draws the answer of every iteration into a folder, and says so on standard error.

    A thread of its own draws. A picture is whole or not there.

    Parameters
    ----------
    folder : path
        Where; it is made with the first picture, in a folder that is there. A link is refused.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._drawn: list[Future[None]] = []

    def open(self, plan: Plan, world: World, events: EventLog) -> None:
        """Start the thread that draws."""
        self._into: Directory | None = None
        self._range = plan.problem.stop_rule.data_range
        self._pool = ThreadPoolExecutor(1, "stream")

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> None:
        """Have it drawn."""
        self._drawn.append(self._pool.submit(self._draw, k, answer.cpu().numpy()))

    def check(self) -> None:
        """See whether all could be drawn so far.

        Raises
        ------
        StoreError
            If not.
        """
        while self._drawn and self._drawn[0].done():
            self._take(self._drawn.pop(0))

    def close(self, ended: Ended) -> None:
        """Wait for the last picture.

        Raises
        ------
        StoreError
            If one could not be drawn.
        """
        self._pool.shutdown()
        self.check()

    def _take(self, drawn: Future[None]) -> None:
        try:
            drawn.result()
        except OSError as error:
            where = error.filename or self._folder
            raise StoreError(
                f"a picture could not be written to {where}: {error.strerror}"
            ) from error

    def _draw(self, k: int, answer: NDArray[Any]) -> None:
        from pint_diffusion.report.pictures import draw_answer

        picture, name = io.BytesIO(), f"iteration-{k:02d}.png"
        draw_answer(answer, self._range, picture)
        if self._into is None:
            above = Directory.of(self._folder.parent)
            self._into = above.below(self._folder.name, make=True)
        self._into.verify()
        self._into.replace(name, picture.getvalue())
        tqdm.write(f"iteration {k}: {self._folder / name}", file=sys.stderr)
