"""Figures of a running server, as Prometheus' text format has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Histogram:
    """Times in cumulative buckets."""

    def __init__(self) -> None:
        self.counts = [0] * len(BUCKETS)
        self.count, self.sum = 0, 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.sum += seconds
        for number, bound in enumerate(BUCKETS):
            self.counts[number] += seconds <= bound

    def lines(self, name: str) -> list[str]:
        """Its lines under a name."""
        found = [f'{name}_bucket{{le="{bound:g}"}} {count}' for bound, count in zip(BUCKETS, self.counts, strict=True)]
        return [
            *found,
            f'{name}_bucket{{le="+Inf"}} {self.count}',
            f"{name}_sum {self.sum:.6f}",
            f"{name}_count {self.count}",
        ]


class Counters:
    """Everything that is counted outside the engine's thread."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.prompt_tokens = self.cancelled = 0
        self.first_token, self.whole = Histogram(), Histogram()

    def text(self, gauges: Mapping[str, float], totals: Mapping[str, float]) -> str:
        """The page."""
        out = []

        def put(name: str, kind: str, help_text: str, lines: list[str]) -> None:
            out.extend([f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines])

        put(
            "gristmill_requests_total",
            "counter",
            "Requests by path and status (499: the client went away).",
            [
                f'gristmill_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ],
        )
        all_totals = {"prompt_tokens": self.prompt_tokens, "cancelled_requests": self.cancelled, **totals}
        for name, value in all_totals.items():
            put(
                f"gristmill_{name}_total",
                "counter",
                f"{name.replace('_', ' ')}.",
                [f"gristmill_{name}_total {value:g}"],
            )
        for name, value in gauges.items():
            put(f"gristmill_{name}", "gauge", f"{name.replace('_', ' ')} now.", [f"gristmill_{name} {value:g}"])
        for name, times in (("time_to_first_token_seconds", self.first_token), ("request_seconds", self.whole)):
            put(f"gristmill_{name}", "histogram", f"{name.replace('_', ' ')}.", times.lines(f"gristmill_{name}"))
        return "\n".join(out) + "\n"
