"""Conversations: one schema for chat, preference pairs and prompts with verifiable answers, and the stage that checks them."""

from stages.chat import chat

__all__ = ["chat"]
