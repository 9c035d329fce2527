"""`serve`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from training.commands.arguments import positive
from training.knobs import TrainingError
from training.serve.config import Limits

KEY = "GRISTMILL_API_KEY"


def add(commands: Any) -> None:
    """Declare the command."""
    default = Limits()
    parser = commands.add_parser("serve", help="a server for OpenAI's API, with a chat page")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("--name", help="the model's name in requests; default: the folder's")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="0: a free one (default 8000)")
    parser.add_argument("--api-key", metavar="KEY", help=f"what clients must send; better in {KEY}, which nobody sees")
    parser.add_argument("--template", metavar="NAME", help="chat template by name, instead of the model's own")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="tokens of prompt and answer; default: the model's"
    )
    for name, meaning in (
        ("rows", "samples that decode side by side"),
        ("queue", "samples that may wait; 429 beyond"),
        ("body", "bytes of a request"),
        ("tokens", "new tokens of a sample"),
        ("samples", "samples of one request"),
    ):
        value = getattr(default, name)
        kind = _from_zero if name == "queue" else positive
        parser.add_argument(f"--max-{name}", type=kind, default=value, metavar="N", help=f"{meaning} (default {value})")
    parser.add_argument(
        "--max-time", type=_seconds, default=default.time, metavar="S", help=f"of a request (default {default.time:g})"
    )
    parser.add_argument(
        "--max-stall",
        type=_seconds,
        default=default.stall,
        metavar="S",
        help=f"that a client may take to send or to read (default {default.stall:g})",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the model; default: all")
    parser.set_defaults(command=run)


def _from_zero(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text}")
    return number


def _port(text: str) -> int:
    number = _from_zero(text)
    if number > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port up to 65535, got {text}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return number


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise TrainingError(f"{error.name} is not installed; pip install 'gristmill[serve]'") from None
    from training.serve.run import make_server, serve

    limits = Limits(
        rows=options.max_rows,
        queue=options.max_queue,
        body=options.max_body,
        tokens=options.max_tokens,
        samples=options.max_samples,
        time=options.max_time,
        stall=options.max_stall,
    )
    key = options.api_key or os.environ.get(KEY) or None
    if key is None and options.host not in ("127.0.0.1", "::1", "localhost"):
        print(f"warning: {options.host} may be reached by others, and there is no API key", file=sys.stderr)
    server = make_server(
        options.model,
        limits,
        name=options.name,
        api_key=key,
        device=options.device,
        dtype=options.dtype,
        template=options.template,
        context=options.context,
        threads=options.threads,
    )
    return serve(
        server,
        options.host,
        options.port,
        lambda address: print(f"{server.served.name}: {address}", flush=True),
    )
