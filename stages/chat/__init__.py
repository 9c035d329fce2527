"""The stage that checks and repairs conversations."""

from stages.chat import chat

__all__ = ["chat"]
