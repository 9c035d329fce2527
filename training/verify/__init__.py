"""Verifiers: whether a completion is right, by rule.

Nothing is imported here before it is asked for: the launcher of sandboxed runs is in this package, and holds little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.verify.registry import grade, verifier
    from training.verify.verdict import Verdict

__all__ = ["Verdict", "grade", "verifier"]


def __getattr__(name: str) -> Any:
    if name in ("grade", "verifier"):
        from training.verify import registry

        return getattr(registry, name)
    if name == "Verdict":
        from training.verify.verdict import Verdict

        return Verdict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
