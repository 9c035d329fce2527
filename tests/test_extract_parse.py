"""The tree that pages become: against the standard's parser where text stands, and on whatever bytes there are."""

import html as entities
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from stages.extract.parse import Tree, parse
from stages.extract.tags import FLAGS, NAMES, NUMBER, SKIPPED, TEXT

SNIPPETS = [
    "<p>one<p>two<div>three</div>four",
    "<ul><li>a<li>b<ul><li>c</ul><li>d</ul>e",
    "<dl><dt>t<dd>d<dd>e<dt>u</dl>",
    "<table><tr><td>1<td>2<tr><td>3<table><tr><td>4</table>5</table>6",
    "<table><thead><tr><th>h<tbody><tr><td>x<tfoot><tr><td>f</table>",
    "<select><option>a<option>b<optgroup><option>c</select>d",
    "<b><i>x</b>y</i>z",
    "<a href=1>x<a href=2>y</a>z",
    "<h1>a<h2>b</h2>c",
    "<p>x<br/>y</br>z</p></p>w",
    "<div/>not empty</div>",
    "<!-- c --><!--><!---->a<!-- unended",
    "<!doctype html><html><head><title>t</title><p>body</html>after",
    "<script>if (a < b) '</div>'</script>x<style>p > a {}</style>",
    "<textarea><b>raw</b></textarea>y",
    "<svg><path/><g>in</g></svg>out<math><mi>x</mi></math>",
    "<?php echo 1 ?>x</ y>z<3 w",
    "<p a='>' b=\"<\" c=x>y",
    "<span title='unended>x</span>",
    "<plaintext>x",
    "</div></p></span>x",
    "<button><p>a</button>b",
    "a&amp;b &lt;c&gt; &nbsp;d",
    "<p>" * 50 + "x" + "</p>" * 60 + "y",
    "<li>x</ul></li>y",
    "<td>loose</td><tr>row</tr>",
    "<head><meta charset=x><div>early</div></head>late",
]


def text_of(tree: Tree) -> str:
    """All text outside elements that hold none, without white space."""
    page, parts, node = tree.page.tobytes(), [], 0
    while node < len(tree.tag):
        if tree.tag[node] == TEXT:
            parts.append(page[tree.begin[node] : tree.end[node]])
        elif FLAGS[tree.tag[node]] & SKIPPED:
            node = tree.last[node]
            continue
        node += 1
    return "".join(entities.unescape(b"".join(parts).decode("utf-8", "replace")).split())


def reference(page: str) -> str:
    """The same by the standard's parser."""
    tree = HTMLTree.parse(page)
    for name in NAMES:
        if name in NUMBER and FLAGS[NUMBER[name]] & SKIPPED and name != "head":
            for element in list(tree.document.query_selector_all(name)):
                element.decompose()
    return "".join(tree.body.text.split())


def check(tree: Tree) -> None:
    """What holds for every tree."""
    count = len(tree.tag)
    index = np.arange(count)
    assert (tree.parent < index).all() and (tree.last > index).all() and (tree.last <= count).all()
    inner = tree.parent >= 0
    assert (tree.last[inner] <= tree.last[tree.parent[inner]]).all()
    assert (tree.tag[tree.parent[inner]] != TEXT).all()
    texts = tree.tag == TEXT
    begin, end = tree.begin[texts], tree.end[texts]
    assert (begin < end).all() and (begin[1:] >= end[:-1]).all()
    assert count == 0 or int(tree.end.max()) <= len(tree.page)


@pytest.mark.parametrize("page", SNIPPETS)
def test_text_is_where_the_standard_has_it(page: str) -> None:
    tree = parse(page.encode())
    check(tree)
    if "<td>loose" in page:  # the standard drops stray table tags, and keeps their text, as we do
        assert text_of(tree) == "looserow"
    else:
        assert text_of(tree) == reference(page)


def names_around(page: str, text: str) -> list[str]:
    tree = parse(page.encode())
    data = tree.page.tobytes()
    node = next(
        n
        for n in range(len(tree.tag))
        if tree.tag[n] == TEXT and data[tree.begin[n] : tree.end[n]].strip() == text.encode()
    )
    found = []
    while (node := int(tree.parent[node])) >= 0:
        found.append(NAMES[tree.tag[node]])
    return found[::-1]


@pytest.mark.parametrize(
    ("page", "text", "around"),
    [
        ("<p>one<p>two", "two", ["p"]),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d", "d", ["ul", "li"]),
        ("<table><tr><td>1<tr><td>2<td>3", "3", ["table", "tr", "td"]),
        ("<dl><dt>t<dd>d", "d", ["dl", "dd"]),
        ("<div><p>x</div>y", "y", []),
        ("<div><span>x</div>y", "y", []),
        ("<div>x</span></b>y</div>z", "z", []),
        ("<h1>a<h3>b", "b", ["h3"]),
        ("<table><tr><td><p>x</td><td>y", "y", ["table", "tr", "td"]),
        ("<head><title>t</title><div>x", "x", ["div"]),
        ("<?xml version='1.0'?><html><div/>x", "x", ["html"]),
        ("<svg><a/>x</svg>", "x", ["svg"]),
        ("<b><p>x</b>y", "y", ["b", "p"]),
    ],
)
def test_elements_are_closed_as_the_standard_says(page: str, text: str, around: list[str]) -> None:
    assert names_around(page, text) == around


def test_links_end_where_the_next_begins() -> None:
    tree = parse(b"<a name=x>no</a><a href=1>yes<b>yes</b></a>no<a href=2>yes<p><a href=3>yes</a>no")
    page = tree.page.tobytes()
    for node in np.flatnonzero(tree.tag == TEXT):
        assert tree.link[node] == (page[tree.begin[node] : tree.end[node]] == b"yes")


def test_depth_takes_linear_time_and_is_told() -> None:
    for opener in (b"<div>", b"<p><b>", b"<li>", b"<table><tr><td>", b"<a href=x>", b"<button><p>"):
        tree = parse(opener * 100_000 + b"x" + b"</div>" * 100_000)
        check(tree)
        assert tree.depth >= (100_000 if opener == b"<div>" else 1)
    assert parse(b"<div>" * 300).depth == 300


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(page: bytes) -> None:
    check(parse(page))


TAGS = [name for name in NAMES if not name.startswith("#")]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_tag_soup_loses_no_text(seed: int) -> None:
    rng = random.Random(seed)
    words, parts = [], []
    for number in range(rng.randint(1, 60)):
        name = rng.choice([tag for tag in TAGS if not FLAGS[NUMBER[tag]] & SKIPPED])
        parts.append(rng.choice([f"<{name}>", f"</{name}>", f"<{name} class=x>", f"</{name} >"]))
        if rng.random() < 0.5 and name not in ("plaintext", "xmp"):
            words.append(f"w{number}")
            parts.append(f" w{number} ")
    tree = parse("".join(parts).encode())
    check(tree)
    page = "".join(parts)
    if "<xmp" not in page:
        assert all(f" {word} " in f" {spaced(tree)} " for word in words)


def spaced(tree: Tree) -> str:
    page = tree.page.tobytes()
    texts = (page[tree.begin[n] : tree.end[n]] for n in np.flatnonzero(tree.tag == TEXT))
    return b" ".join(text.strip() for text in texts).decode()
