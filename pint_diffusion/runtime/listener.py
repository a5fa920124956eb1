"""What the runtime tells of a run, and to whom."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Listener(Protocol):
    """What the runtime tells of a run; see `pint_diffusion.output.Output`."""

    def state(self, n: int, k: int, state: Tensor | None) -> None: ...  # noqa: D102

    def boundary(self, n: int, k: int) -> None: ...  # noqa: D102

    def answer(  # noqa: D102
        self, k: int, answer: Tensor, change: NDArray[np.float64] | None
    ) -> bool | None: ...

    def wants(self, k: int) -> bool | None: ...  # noqa: D102

    def decided(self, k: int, wanted: bool) -> None: ...  # noqa: D102

    def check(self) -> None: ...  # noqa: D102
