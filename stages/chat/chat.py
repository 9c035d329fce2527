"""`chat`: conversations, preference pairs and prompts put right where that needs no guess, checked, tagged or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.chat import checks
from stages.chat.checks import FAULTS
from stages.chat.cues import Cue, read_cues, tags_of
from stages.chat.repair import repair
from stages.conversation import LISTS, MESSAGES, ROLES, Message, render
from stages.stage import ASSETS, Decision, Limit, MapStage, StageConfig, StageError, knob, register

CUES = ASSETS / "chat" / "cues.json"


class ChatConfig(StageConfig):
    """Knobs of `chat`."""

    roles: dict[str, str] = knob(
        {}, "roles of names that are not known, in any case: {narrator: system}; system, user, assistant or tool"
    )
    drop: tuple[str, ...] = knob(
        (
            "no_conversation",
            "unknown_role",
            "empty_turn",
            "order",
            "no_answer",
            "same_answers",
            "template_tokens",
            "open_fence",
        ),
        "findings that drop a row, faults or tags of the cue lists; every other finding is in `chat_tags`",
    )
    cues: tuple[str, ...] = knob(
        (),
        'more cue lists, for other languages say: JSON of {tag: {"where": answer_start | answer | prompt | any, "phrases": []}}',
    )
    english_cues: bool = knob(
        True, "use the English cue list that comes with the stage: refusal, disclaimer, injection, unsafe_request"
    )
    min_answer_characters: int = knob(1, "shorter answers are `short_answer`", ge=0)
    max_characters: int | None = knob(None, "longer conversations are `too_long`", ge=1)
    max_turns: int | None = knob(None, "conversations of more turns of user and assistant are `too_many_turns`", ge=1)


@dataclass
class Checked:
    """One row after its repairs."""

    lists: dict[str, list[Message] | None]
    fixed: set[str] = field(default_factory=set)
    faults: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    turns: int = 0
    characters: int = 0
    answer_characters: int = 0


@register
class Chat(MapStage):
    """Repairs and judges conversations; rows of text pass untouched and are counted as skipped.

    Repaired, and named in `fixed` (which the ledger repeats as the `detail` of a kept row): role names mapped, outer
    whitespace and control characters removed, empty system turns dropped, system turns moved first, turns of one role merged.
    `truncated` and `role_spoof` are guesses, see docs/chat.md for how often they are right; they tag, unless `drop` names them.
    """

    name = "chat"
    config_model = ChatConfig
    needs = ("messages",)
    config: ChatConfig
    _cues: list[Cue]

    def provides(self) -> dict[str, pa.DataType]:
        """The repaired lists with their rendering, and `fixed`, `chat_tags`, `chat_turns`."""
        return {
            "text": pa.large_string(),
            **dict.fromkeys(LISTS, MESSAGES),
            "fixed": pa.string(),
            "chat_tags": pa.list_(pa.string()),
            "chat_turns": pa.int32(),
        }

    def measures(self) -> dict[str, pa.DataType]:
        """What is provided, sizes, and the faults in their order."""
        return {
            **self.provides(),
            "chat_characters": pa.int64(),
            "chat_answer_characters": pa.int64(),
            "chat_findings": pa.list_(pa.string()),
            "chat_roles": pa.string(),
        }

    def limits(self) -> list[Limit]:
        """The limits on sizes."""
        config = self.config
        found = [Limit("chat_answer_characters", "short_answer", float(config.min_answer_characters))]
        if config.max_characters is not None:
            found.append(Limit("chat_characters", "too_long", float(config.max_characters)))
        if config.max_turns is not None:
            found.append(Limit("chat_turns", "too_many_turns", float(config.max_turns)))
        return found

    def assets(self) -> dict[str, str]:
        """The cue lists."""
        own = {"english": str(CUES)} if self.config.english_cues else {}
        return own | {f"cues {number}": path for number, path in enumerate(self.config.cues)}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Reads the cue lists. Raises `StageError` for one that is broken, and for knobs that name what is not there."""
        self._cues = read_cues(assets.values())
        known = {*FAULTS, *(cue.tag for cue in self._cues)}
        for name in self.config.drop:
            if name not in known:
                raise StageError(
                    f"{self.name}.drop: no finding is called {name!r}; there are {', '.join(sorted(known))}"
                )
        clash = sorted(set(FAULTS) & {cue.tag for cue in self._cues})
        if clash:
            raise StageError(f"{self.name}.cues: {clash[0]!r} is the name of a fault; call the tag something else")
        for name, role in self.config.roles.items():
            if role not in ROLES:
                raise StageError(f"{self.name}.roles.{name}: expected one of {', '.join(ROLES)}, got {role!r}")

    def measure(self, batch: Batch) -> pa.Table:
        """Each row repaired and judged."""
        roles = {name.strip().lower(): role for name, role in self.config.roles.items()}
        out: dict[str, list[Any]] = {name: [] for name in self.measures()}
        columns = [batch.values(name) for name in ("kind", *LISTS, "answer")]
        for text, kind, messages, chosen, rejected, answer in zip(batch.texts(), *columns, strict=True):
            if kind is None:
                for name in out:
                    out[name].append(text if name == "text" else None)
                continue
            row = check(kind, {"messages": messages, "chosen": chosen, "rejected": rejected}, answer, roles, self._cues)
            findings = [*(fault for fault in FAULTS if fault in row.faults), *row.tags]
            out["text"].append(render([row.lists[name] for name in LISTS]))
            for name in LISTS:
                out[name].append(row.lists[name])
            out["fixed"].append(", ".join(sorted(row.fixed)) or None)
            out["chat_tags"].append([finding for finding in findings if finding not in self.config.drop])
            out["chat_findings"].append(findings)
            out["chat_roles"].append(roles_in_order(row) if "order" in row.faults else None)
            out["chat_turns"].append(row.turns)
            out["chat_characters"].append(row.characters)
            out["chat_answer_characters"].append(row.answer_characters)
        return pa.table({name: pa.array(out[name], kind) for name, kind in self.measures().items()})

    def decide(self, values: pa.Table) -> Decision:
        """The first finding of `drop`, then the sizes."""
        decision, config = Decision.keep(values.num_rows), self.config
        names = ("chat_findings", "chat_answer_characters", "chat_characters", "chat_turns", "chat_roles")
        for row, (findings, answer, size, turns, roles) in enumerate(
            zip(*(values.column(name).to_pylist() for name in names), strict=True)
        ):
            if findings is None:
                decision.skipped["text"] = decision.skipped.get("text", 0) + 1
                continue
            gone = next((finding for finding in findings if finding in config.drop), None)
            if gone is not None:
                decision.drop(row, gone, detail=roles if gone == "order" else None)
            elif answer < config.min_answer_characters:
                decision.drop(row, "short_answer", answer, config.min_answer_characters)
            elif config.max_characters is not None and size > config.max_characters:
                decision.drop(row, "too_long", size, config.max_characters)
            elif config.max_turns is not None and turns > config.max_turns:
                decision.drop(row, "too_many_turns", turns, config.max_turns)
        return decision


def check(
    kind: str,
    lists: Mapping[str, list[Message] | None],
    answer: str | None,
    roles: Mapping[str, str],
    cues: list[Cue],
) -> Checked:
    """One row repaired and looked at; `lists` are its `messages`, `chosen` and `rejected`."""
    row = Checked(dict(lists))
    if not lists["messages"]:
        row.faults.add("no_conversation")
        return row
    for name in LISTS:
        messages = lists[name]
        if messages is not None:
            row.lists[name], done = repair(messages, roles)
            row.fixed |= done
    prompt = row.lists["messages"] or []
    sides = [row.lists[name] or [] for name in ("chosen", "rejected")] if kind == "preference" else []
    everything = [*prompt, *(message for side in sides for message in side)]
    row.faults |= _shape(kind, prompt, sides, answer)
    _contents(row, everything, [side for side in sides if side] or [prompt])
    asked = [m["content"] for m in prompt if m["role"] in ("user", "system")]
    answered = [m["content"] for m in everything if m["role"] == "assistant"]
    row.tags = tags_of(cues, asked, answered)
    row.turns = sum(m["role"] in ("user", "assistant") for m in [*prompt, *(sides[0] if sides else [])])
    row.characters = sum(len(m["content"]) for m in everything)
    if kind == "prompt":
        row.answer_characters = len(answer or "")
    else:
        last = [side[-1]["content"] for side in sides if side] or [prompt[-1]["content"] if prompt else ""]
        row.answer_characters = min(map(len, last))
    return row


def roles_in_order(row: Checked) -> str:
    """The roles of a row's turns, for the ledger: `user user assistant`; at most a dozen."""
    roles = [message["role"] for name in LISTS for message in row.lists[name] or []]
    return " ".join(role if role in ROLES else "?" for role in roles[:12]) + (" ..." if len(roles) > 12 else "")


def _shape(kind: str, prompt: list[Message], sides: list[list[Message]], answer: str | None) -> set[str]:
    """Faults of roles and their order."""
    found: set[str] = set()
    lists = [prompt, *sides]
    if any(checks.unknown_roles(messages) for messages in lists):
        found.add("unknown_role")
    if any(not message["content"] for messages in lists for message in messages):
        found.add("empty_turn")
    ends = ("assistant",) if kind == "chat" else ("user", "tool")
    answered = bool(prompt) and prompt[-1]["role"] in ends
    if "unknown_role" not in found and (
        not prompt
        or checks.order_fault(prompt, "user", ROLES)
        or (kind != "chat" and not answered)
        or any(side and checks.order_fault(side, "assistant", ROLES) for side in sides)
    ):
        found.add("order")
    if kind == "chat":
        missing = not answered
    elif kind == "preference":
        missing = any(not side or side[-1]["role"] != "assistant" for side in sides)
        if sides[0] == sides[1]:
            found.add("same_answers")
    else:
        missing = not (answer or "").strip()
    if missing:
        found.add("no_answer")
    return found


def _contents(row: Checked, everything: list[Message], ends: list[list[Message]]) -> None:
    """Faults of what is said; `ends` are the lists whose last turn may be cut."""
    for message in everything:
        content = message["content"]
        if checks.has_template_tokens(content):
            row.faults.add("template_tokens")
        if message["role"] == "assistant":
            if checks.speaks_for_others(content):
                row.faults.add("role_spoof")
            if checks.fence_open(content):
                row.faults.add("open_fence")
    for messages in ends:
        if messages and messages[-1]["role"] == "assistant" and checks.is_truncated(messages[-1]["content"]):
            row.faults.add("truncated")
    for messages in ends:
        answers = [m["content"] for m in messages if m["role"] == "assistant" and len(m["content"]) >= 20]
        if len(set(answers)) < len(answers):
            row.faults.add("repeated_answer")
