"""Connections on which no request comes to its end: closed, since each holds a socket for as long as it is let."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which closes a connection whose request line and headers take longer than so many seconds."""
    base: Any = AutoHTTPProtocol

    class Hurried(base):  # type: ignore[misc]
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Run the clock while headers are waited for; between requests uvicorn's own does, until a byte comes."""
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting:
                self._forget()
            elif self.timer is None:
                self.timer = asyncio.get_running_loop().call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Hurried
