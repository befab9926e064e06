"""The network, closed for a while, and who would have been called."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def closed(called: list[str]) -> Iterator[None]:
    """Inside, every name look-up and every connection but to a local socket fails; what was asked for is in ``called``."""
    plain = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex

    def refuse(address: Any) -> OSError:
        called.append(str(address[0] if isinstance(address, tuple) else address))
        return OSError("the network is closed while a step is tested")

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        raise refuse((host,))

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family == getattr(socket, "AF_UNIX", None):
            return plain[1](self, address)
        raise refuse(address)

    socket.getaddrinfo = look_up
    socket.socket.connect = socket.socket.connect_ex = connect  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex = plain  # type: ignore[method-assign]
