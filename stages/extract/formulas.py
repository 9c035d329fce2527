"""Formulas as TeX between dollar signs, put into the page in place of their markup before it is parsed.

Where the author's TeX is there (an annotation of MathML, a script for MathJax, the alternative text of an image), it is taken; other MathML is
written out. Pages without formulas are not touched.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stages.extract.parse import MATH, Bytes, Ints, Tree, is_letter
from stages.extract.tags import NUMBER
from stages.jit import kernel

IMG, SCRIPT = NUMBER["img"], NUMBER["script"]
_MATH, _MATH_END = re.compile(r"<math\b([^>]{0,1000})>", re.IGNORECASE), re.compile(r"</math\s{0,9}>", re.IGNORECASE)
_SCRIPT = re.compile(r"<script\b[^>]{0,300}?type\s*=\s*[\"']math/tex([^\"'>]{0,100})[\"'][^>]{0,300}>", re.IGNORECASE)
_SCRIPT_END = re.compile(r"</script\s{0,9}>", re.IGNORECASE)
_ANNOTATION = re.compile(
    r"<annotation\b[^>]{0,200}?encoding\s*=\s*[\"'](?:application/x-tex|TeX|LaTeX)[\"'][^>]{0,200}>", re.IGNORECASE
)
_ANNOTATION_END = re.compile(r"</annotation\s{0,9}>", re.IGNORECASE)
_IMAGE = re.compile(r"<img\b[^>]{0,2000}>", re.IGNORECASE)
_ALT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_TEX_CLASS = re.compile(r"\bclass\s*=\s*[\"'][^\"']*\b(?:tex|latex|math|mwe-math-fallback[\w-]*)\b", re.IGNORECASE)
_DISPLAY = re.compile(r"display\s*=\s*[\"']?block|mode\s*=\s*display", re.IGNORECASE)
_WRAPPED = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.DOTALL)
_TAG = re.compile(r"<(/?)([a-z][a-z0-9:]*)\b[^>]*?(/?)>|([^<]+)", re.IGNORECASE)
_LONGEST = 20_000  # characters of one formula


def has_formulas(tree: Tree) -> bool:
    """Whether a page may hold any."""
    return _has_formulas(tree.page, tree.tag, tree.begin, tree.end)


@kernel
def _has_formulas(page: Bytes, tags: npt.NDArray[np.int16], begins: Ints, ends: Ints) -> bool:
    for node in range(tags.size):
        tag = tags[node]
        if tag == MATH:
            return True
        if tag == IMG or tag == SCRIPT:
            for at in range(begins[node], ends[node] - 4):  # the word "tex", "latex" or "math" anywhere in the tag
                first = page[at] | 32
                size = 0
                if first == 116 and page[at + 1] | 32 == 101 and page[at + 2] | 32 == 120:
                    size = 3
                elif first == 109 and page[at + 1] | 32 == 97 and page[at + 2] | 32 == 116 and page[at + 3] | 32 == 104:
                    size = 4
                if size and not is_letter(page[at + size]):
                    before = page[at - 1]
                    if not is_letter(before) or (page[at - 2] | 32 == 108 and before | 32 == 97):
                        return True
    return False


def with_formulas(page: str) -> str:
    """The page with each formula as TeX text."""
    had_math = "<math" in page
    page = _replaced(page, _MATH, _MATH_END, _from_mathml)
    page = _replaced(page, _SCRIPT, _SCRIPT_END, lambda kind, tex: _dollars(html.unescape(tex), "display" in kind))
    return _IMAGE.sub(_from_image(had_math), page)


def _replaced(page: str, start: re.Pattern[str], end: re.Pattern[str], write: Callable[[str, str], str]) -> str:
    """The page with what stands from a start to the next end written anew: `write(first group of the start, inside)`.

    Two searches instead of one pattern: where ends are missing, that would look through the rest of the page for each start.
    """
    parts, done = [], 0
    while (opens := start.search(page, done)) and (closes := end.search(page, opens.end())):
        parts += [page[done : opens.start()], write(opens[1], page[opens.end() : closes.start()])]
        done = closes.end()
    return "".join(parts) + page[done:]


def _dollars(tex: str, display: bool) -> str:
    tex = tex.strip()
    if not tex:
        return ""
    if found := _WRAPPED.match(tex):
        tex = found[1].strip()
    mark = "$$" if display else "$"
    return html.escape(f"{mark}{tex}{mark}", quote=False)


def _from_mathml(attributes: str, body: str) -> str:
    body = body[:_LONGEST]
    opens = _ANNOTATION.search(body)
    closes = _ANNOTATION_END.search(body, opens.end()) if opens else None
    tex = html.unescape(body[opens.end() : closes.start()]) if opens and closes else to_tex(body)
    return _dollars(tex, _DISPLAY.search(attributes) is not None)


def _from_image(had_math: bool) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        if _TEX_CLASS.search(found[0]) is None:
            return found[0]
        alt = _ALT.search(found[0])
        if alt is None or (had_math and "mwe-math-fallback" in found[0]):
            return found[0]  # Wikipedia's images stand beside the same formula in MathML
        return _dollars(html.unescape(alt[1] or alt[2] or ""), False)

    return replace


# How many arguments, and the TeX around them.
_FORMS: dict[str, tuple[int, str]] = {
    "mfrac": (2, r"\frac{{{0}}}{{{1}}}"),
    "msup": (2, "{0}^{{{1}}}"),
    "msub": (2, "{0}_{{{1}}}"),
    "msubsup": (3, "{0}_{{{1}}}^{{{2}}}"),
    "munder": (2, "{0}_{{{1}}}"),
    "mover": (2, "{0}^{{{1}}}"),
    "munderover": (3, "{0}_{{{1}}}^{{{2}}}"),
    "mroot": (2, r"\sqrt[{1}]{{{0}}}"),
}


def to_tex(mathml: str) -> str:
    """Presentation MathML as TeX: fractions, scripts, roots, tables; what is not known is written in order."""
    stack: list[tuple[str, list[str]]] = [("math", [])]

    def close() -> None:
        name, parts = stack.pop()
        stack[-1][1].append(_written(name, parts))

    for found in _TAG.finditer(mathml):
        ends, name, empty, text = found.groups()
        if text is not None:
            if text.strip():
                stack[-1][1].append(html.unescape(text.strip()))
            continue
        name = name.lower().rpartition(":")[2]
        if ends:
            if any(open_name == name for open_name, _ in stack[1:]):
                while stack[-1][0] != name:
                    close()
                close()
        elif empty or name in ("mspace", "none", "mprescripts"):
            stack[-1][1].append(" " if name == "mspace" else "")
        elif len(stack) < 100:
            stack.append((name, []))
    while len(stack) > 1:
        close()
    return " ".join("".join(stack[0][1]).split())


def _written(name: str, parts: list[str]) -> str:
    if name in ("annotation", "annotation-xml"):
        return ""
    if name in _FORMS and len(parts) == _FORMS[name][0]:
        return _FORMS[name][1].format(*parts)
    if name == "msqrt":
        return rf"\sqrt{{{''.join(parts)}}}"
    if name == "mtext":
        return rf"\text{{{''.join(parts)}}}"
    if name == "mtd":
        return "".join(parts) + " & "
    if name == "mtr":
        return "".join(parts).removesuffix(" & ") + r" \\ "
    if name == "mtable":
        return rf"\begin{{matrix}}{''.join(parts).removesuffix(chr(92) * 2 + ' ')}\end{{matrix}}"
    if name == "mo" and len("".join(parts)) == 1 and "".join(parts) in "=+−<>≤≥≠≈∈→⇒":
        return f" {''.join(parts)} "
    return "".join(parts)
