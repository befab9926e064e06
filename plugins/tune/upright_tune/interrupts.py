"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt that is raised inside a destructor or a weakref's callback."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed() -> Iterator[Callable[[], None]]:
    """While the block runs, ctrl-C interrupts as ever; the function that is given raises it again where it was dropped.

    For the main thread, the only one in which Python handles signals.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def again() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield again
    finally:
        signal.signal(signal.SIGINT, before)
