"""What a publisher declares about the use of a page: in its `<meta>` elements and in HTTP fields.

A declaration is written `agent:directive:place`: `*:noindex:meta`, `ccbot:noai:header`. The agent is whom it addresses, `*`
being everyone; place is `meta` or `header`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.extract.charset import decode

HEAD_BYTES = 65_536  # of a page that are looked at
MOST = 100  # declarations of a page that are kept

# Values of the robots meta element and of X-Robots-Tag that reserve something.
ROBOTS = frozenset({"noai", "noimageai", "noml", "noindex", "none", "noarchive", "nocache", "nosnippet"})
# Values that take one of their own after a colon, and so look like an agent in X-Robots-Tag.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})

_AGENT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}|\*")
_META = rb"""meta\b(?P<meta>(?:[^<>"']++|"[^"]{0,2000}"|'[^']{0,2000}'){1,400})"""
_ONE = re.compile(b"<" + _META)
_ELEMENTS = re.compile(  # comments and raw text are passed over: what stands in them is no element
    rb"<(?:!--.*?(?:-->|\Z)|(?P<raw>script|style|title|textarea|template)\b.*?(?:</(?P=raw)|\Z)|" + _META + b")",
    re.DOTALL,
)
_TELLING = re.compile(rb"no(?:ai|imageai|ml|index|ne|archive|cache|snippet)|tdm-reservation|content-(?:usage|signal)")
_ATTRIBUTE = re.compile(r"""([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_SPACES = re.compile(r"[\s,;]+")


def declarations(html: str | bytes | None, charset: str | None, fields: str | None) -> list[str]:
    """What a page and its HTTP fields declare, sorted, each once; at most `MOST`.

    `fields` holds HTTP fields, one `name: value` a line; `charset` is that of the HTTP header. Nothing raises.
    """
    found = set(_of_page(html, charset)) if html else set()
    if fields:
        for line in fields.split("\n"):
            name, _, value = line.partition(":")
            found.update(_of_field(name.strip().lower(), value.lower(), "header"))
    return sorted(found)[:MOST]


def _of_page(html: str | bytes, charset: str | None) -> Iterator[str]:
    """What the `<meta>` elements say, in the first 64 KiB and outside comments and scripts."""
    head = _ascii_head(html, charset).lower()
    if not _may_tell(head):
        return
    for match in _ELEMENTS.finditer(head):
        element = match["meta"]
        if element is None or not _TELLING.search(element):
            continue
        attributes: dict[str, str] = {}
        for name, *values in _ATTRIBUTE.findall(element.decode("latin-1")):
            attributes.setdefault(name, "".join(values))
        content = attributes.get("content", "")
        name = (attributes.get("name") or attributes.get("http-equiv") or attributes.get("property") or "").strip()
        if name in ("x-robots-tag", "tdm-reservation", "content-usage", "content-signal"):
            yield from _of_field(name, content, "meta")
        elif agent := _agent("*" if name == "robots" else name):
            for word in ROBOTS.intersection(_SPACES.split(content)):
                yield f"{agent}:{word}:meta"


def _may_tell(head: bytes) -> bool:
    """Whether an element that says something stands there, be it in a comment: nine pages of ten end here."""
    place = head.find(b"<meta")
    while place >= 0:
        match = _ONE.match(head, place)
        if match and _TELLING.search(match["meta"]):
            return True
        place = head.find(b"<meta", place + 5)
    return False


def _ascii_head(html: str | bytes, charset: str | None) -> bytes:
    """The start of a page in bytes where markup is ASCII, as in every charset of the web but UTF-16 and UTF-32."""
    if isinstance(html, str):
        return html[:HEAD_BYTES].encode("utf-8", "replace")
    head = html[:HEAD_BYTES]
    if b"\x00" in head[:1024] or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return decode(html[: 4 * HEAD_BYTES], charset)[0][:HEAD_BYTES].encode("utf-8", "replace")
    return head


def _of_field(name: str, value: str, place: str) -> Iterator[str]:
    """What one HTTP field says, or a `<meta>` element that stands for one; both in lower case."""
    if name == "x-robots-tag":
        yield from _robots_tag(value, place)
    elif name == "tdm-reservation":
        if value.strip() == "1":
            yield f"*:tdm_reservation:{place}"
    elif name == "content-usage":
        # a dictionary of Structured Fields: of a repeated key the last value counts; `;` begins parameters
        members = dict(_pairs(value))
        if members.get("train-ai") in ("n", "?0"):
            yield f"*:content_usage:{place}"
    elif name == "content-signal" and dict(_pairs(value)).get("ai-train") == "no":
        yield f"*:content_signal:{place}"


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    for member in value.split(","):
        key, _, of_key = member.partition(";")[0].partition("=")
        yield key.strip(), of_key.strip()


def _robots_tag(value: str, place: str) -> Iterator[str]:
    """`noindex, noai` is for everyone; after `googlebot:` what follows is for that agent alone."""
    agent: str | None = "*"
    for part in value.split(","):
        before, colon, after = part.partition(":")
        if colon and before.strip() not in _VALUED:
            agent, part = _agent(before.strip()), after
        for word in ROBOTS.intersection(_SPACES.split(part)):
            if agent:
                yield f"{agent}:{word}:{place}"


def _agent(name: str) -> str | None:
    return name if _AGENT.fullmatch(name) else None
