"""Verifiers: whether a completion is right, by rule.

Nothing is imported here before it is asked for: the launcher of sandboxed runs is in this package, and holds little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.verify.registry import verifier
    from training.verify.verdict import Verdict

__all__ = ["Verdict", "verifier"]


def __getattr__(name: str) -> Any:
    if name == "verifier":
        from training.verify.registry import verifier

        return verifier
    if name == "Verdict":
        from training.verify.verdict import Verdict

        return Verdict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
