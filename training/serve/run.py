"""From a model folder to a server that runs until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from training.chat.format import chat_format, own_template
from training.device import choose_device, choose_dtype, choose_threads
from training.inference.engine import Engine
from training.inference.load import load
from training.serve.app import Served, Server
from training.serve.config import Limits
from training.serve.slow import protocol
from training.serve.worker import Worker


def make_server(
    folder: Path,
    limits: Limits,
    *,
    name: str | None = None,
    api_key: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    template: str | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> Server:
    """A server of one model folder. context: longest prompt with its completion; by default the model's context."""
    place = choose_device(device)
    model, tokenizer, end = load(folder, place, choose_dtype(dtype, place))
    form = chat_format(folder, template) if template is not None or own_template(folder) is not None else None
    ends = frozenset([*end, *(form.end_ids if form else ())])
    make: Callable[[], Engine] = lambda: Engine(  # noqa: E731
        model, sorted(ends), tokenizer, max_rows=limits.rows, positions=context
    )
    room = min(context or model.config.context_length, model.config.context_length)
    created = int((folder / "config.json").stat().st_mtime)
    served = Served(name or folder.resolve().name, tokenizer, ends, form, room, created)
    count = choose_threads(threads)
    # torch has the number of threads by thread: the engine's own must set it
    worker = Worker(make, limits.rows, limits.queue, lambda: torch.set_num_threads(count))
    return Server(served, worker, limits, api_key)


def serve(server: Server, host: str, port: int, said: Callable[[str], Any]) -> int:
    """Serve until SIGTERM or Ctrl-C; then take no more requests and finish those that run. Gives the exit code.

    `said` hears the address once requests are taken. A second signal ends the server without waiting.
    """
    import uvicorn

    class Running(uvicorn.Server):
        """uvicorn's, which would end the process by the signal itself, without an exit code."""

        signal: int | None = None

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                here = self.servers[0].sockets[0].getsockname()
                said(f"http://{f'[{here[0]}]' if ':' in here[0] else here[0]}:{here[1]}")

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.remember) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def remember(self, number: int, _: object) -> None:
            self.force_exit = self.signal is not None
            self.signal, self.should_exit = number, True

    config = uvicorn.Config(
        server.app(),
        host=host,
        port=port,
        http=protocol(server.limits.stall),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(server.limits.time + server.limits.stall) + 1,
    )
    running = Running(config)
    try:
        running.run()
    except SystemExit:  # uvicorn has said why, such as a port in use
        return 1
    return 0 if running.signal is None else 128 + running.signal
