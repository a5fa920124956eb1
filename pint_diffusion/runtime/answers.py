"""Answers on their way to the outputs, to the caller, and to the other ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import TypeAlias

from torch import Tensor

from pint_diffusion.runtime.calls import Task
from pint_diffusion.runtime.listener import Listener
from pint_diffusion.runtime.post import Post
from pint_diffusion.runtime.requests import AnswerRequest, Layout
from pint_diffusion.runtime.transports.base import Control, Message

Shown: TypeAlias = Generator[tuple[int, Tensor], "bool | None", tuple[Task, bool]]


class Answers:
    """The answers of a run on one rank.

    Parameters
    ----------
    outputs : Listener
        The run's outputs.
    post : Post
        Tells the other ranks.
    shown : Layout or None
        Of an answer, if the other ranks get every answer too.

    Attributes
    ----------
    asking : (Task, AnswerRequest) or None
        An answer that was not shown yet, and the task that awaits what is said of it.
    last : int
        Iteration of the newest one that was shown, -1 before the first; on rank 0.
    """

    def __init__(self, outputs: Listener, post: Post, shown: Layout | None) -> None:
        self.asking: tuple[Task, AnswerRequest] | None = None
        self.last = -1
        self._outputs, self._post, self._layout = outputs, post, shown
        self._heard: deque[tuple[int, Tensor]] = deque()

    def show(self) -> Shown:
        """Show what is asked about; return who asked, and whether the run ends here."""
        assert self.asking is not None
        (task, asked), self.asking = self.asking, None
        k, answer = asked.k, asked.answer
        stop = bool(self._outputs.answer(k, answer, asked.change))
        wanted = self._outputs.wants(k)
        if wanted is not None:
            self._outputs.decided(k, wanted)
            self._post.tell_all(Control.WRITE if wanted else Control.PASS, k)
        if self._layout is not None:
            self._post.tell_all(Control.ANSWER, k, answer)
        stop = bool((yield k, answer)) or stop
        self.last = k
        return task, stop

    def hear(self, message: Message) -> None:
        """Take in one that rank 0 has shown."""
        assert self._layout is not None
        answer, _ = message.value(self._layout)
        assert answer is not None
        self._heard.append((message.key.k, answer))

    def heard(self) -> Iterator[tuple[int, Tensor]]:
        """Yield those that have come since."""
        while self._heard:
            yield self._heard.popleft()
