"""A reply that is sent piece by piece, to a client that may be slow, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep pieces back
]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[Any], receive: Receive) -> tuple[bool, Any]:
    """(True, what `work` gives), or (False, None) if the client leaves before; then `work` is cancelled."""
    doing, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return True, doing.result()
        return False, None
    finally:
        for task in (doing, watching):
            task.cancel()
        await asyncio.gather(doing, watching, return_exceptions=True)


class EventStream:
    """An ASGI response of pieces. A client that takes nothing for `stall` seconds is left; `closed` is called at the end in any case."""

    def __init__(self, pieces: AsyncIterator[bytes], stall: float, closed: Callable[[bool], object]) -> None:
        """closed: told whether the last piece was sent."""
        self.pieces, self.stall, self.closed = pieces, stall, closed

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send everything."""
        whole = False
        try:
            whole, _ = await unless_gone(self._pump(send), receive)
        except TimeoutError:
            pass  # the server closes a connection whose reply is not complete
        finally:
            self.closed(whole)

    async def _pump(self, send: Send) -> None:
        async def put(message: dict[str, Any]) -> None:
            async with asyncio.timeout(self.stall):
                await send(message)

        await put({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async for piece in self.pieces:
            if piece:
                await put({"type": "http.response.body", "body": piece, "more_body": True})
        await put({"type": "http.response.body", "body": b"", "more_body": False})
