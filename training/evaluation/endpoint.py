"""Questions to an OpenAI-compatible endpoint: retries, a time limit, and answers kept on disk, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training.evaluation.answers_config import JudgeConfig
from training.knobs import TrainingError

WAIT = 0.5  # seconds before the second try, doubled before each further one
LONGEST_WAIT = 60.0
FOR_THE_MOMENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class Endpoint:
    """Chat completions of one model behind one address. Answers of one request are asked for once and then remembered."""

    def __init__(self, config: JudgeConfig, cache: Path | None) -> None:
        """`cache`: JSONL file of answers, read here and added to. A line that a killed run left half is passed over."""
        try:
            import httpx
        except ModuleNotFoundError:
            raise TrainingError("httpx is not installed; pip install 'gristmill[eval]'") from None
        try:
            httpx.URL(config.endpoint)
        except httpx.InvalidURL as error:
            raise TrainingError(f"evaluate.judge.endpoint: {config.endpoint}: {error}") from None
        key = os.environ.get(config.api_key)
        self.config = config
        self.asked = 0
        self._failures: tuple[type[Exception], ...] = (httpx.TransportError,)
        self._client = httpx.Client(
            timeout=config.timeout,
            headers={"authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=config.concurrency),
        )
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._cache = cache
        if cache is not None and cache.exists():
            self._read(cache)

    def _read(self, cache: Path) -> None:
        for line in cache.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                self._known[row["key"]] = row["content"]
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed as it wrote

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask_all(self, prompts: Sequence[str], done: Callable[[int], object] = lambda count: None) -> list[str]:
        """The answer to each prompt, `concurrency` at a time. Raises `TrainingError` if one cannot be had."""
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            jobs = [pool.submit(self.ask, prompt) for prompt in prompts]
            try:
                found = []
                for job in jobs:
                    found.append(job.result())
                    done(1)
                return found
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise

    def ask(self, prompt: str) -> str:
        """The answer to one prompt, from disk where it is known."""
        config = self.config
        prompt = prompt.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": config.max_tokens,
        }
        if config.temperature is not None:
            body["temperature"] = config.temperature
        key = hashlib.sha256(json.dumps([config.endpoint, body], sort_keys=True).encode()).hexdigest()
        with self._lock:
            if key in self._known:
                return self._known[key]
        content = self._post(body)
        with self._lock:
            self.asked += 1
            self._known[key] = content
            if self._cache is not None:
                self._cache.parent.mkdir(parents=True, exist_ok=True)
                with self._cache.open("a+b") as file:
                    if file.tell() and not _ends_with_newline(self._cache):
                        file.write(b"\n")  # behind half a line of a killed run
                    file.write(json.dumps({"key": key, "content": content}).encode() + b"\n")
        return content

    def _post(self, body: dict[str, Any]) -> str:
        address = self.config.endpoint.rstrip("/") + "/chat/completions"
        problem = ""
        for number in range(self.config.retries + 1):
            wait = min(LONGEST_WAIT, WAIT * 2**number)
            try:
                response = self._client.post(address, json=body)
            except self._failures as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return _content(response, address)
                problem = f"{response.status_code}: {' '.join(response.text.split())[:300]}"
                if response.status_code not in FOR_THE_MOMENT:
                    raise TrainingError(f"evaluate.judge: {address} refused the request ({problem})")
                wait = min(LONGEST_WAIT, _seconds(response.headers.get("retry-after"), wait))
            if number < self.config.retries:
                time.sleep(wait)
        kept = f"; answers so far are in {self._cache}, run again to go on" if self._cache else ""
        raise TrainingError(
            f"evaluate.judge: {address} gave no answer in {self.config.retries + 1} tries ({problem}){kept}"
        )


def _content(response: Any, address: str) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = response.text
        raise TrainingError(
            f"evaluate.judge: {address} answered something else than a chat completion: {content[:200]!r}"
        ) from None
    return content if isinstance(content, str) else ""  # null: nothing but a tool call, or a refusal


def _seconds(header: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(header)) if header is not None else otherwise
    except ValueError:  # a date, which this does not read
        return otherwise


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
