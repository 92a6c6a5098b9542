"""Pieces of the page: everything that is text is escaped here."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

__all__ = [
    "command_lines",
    "definitions",
    "details",
    "document",
    "dot",
    "figure",
    "image",
    "preformatted",
    "table",
    "versions",
]


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page with its style within; no script, nothing from elsewhere."""
    css = files("modereg.report").joinpath("page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def image(data: bytes, alt: str, kind: str = "") -> str:
    """Return a PNG or WebP with its bytes within the page.

    Args:
        data: the file.
        alt: alternative text.
        kind: class of the element.
    """
    media = "png" if data.startswith(b"\x89PNG") else "webp"
    named = f' class="{kind}"' if kind else ""
    source = f"data:image/{media};base64,{base64.b64encode(data).decode()}"
    return f'<img{named} alt="{escape(alt)}" src="{source}">'


def figure(data: bytes, alt: str, heading: str, caption: str) -> str:
    """Return a picture (PNG) with its caption, its bytes within the page; never enlarged."""
    width = int.from_bytes(data[16:20], "big") // 1.4  # the header of a PNG says its width
    return (
        f"<figure><figcaption><b>{escape(heading)}</b> {escape(caption)}</figcaption>"
        f'<div class="view" tabindex="0" style="--width:{width:.0f}px">{image(data, alt)}</div>'
        "</figure>"
    )


def dot(color: str | None) -> str:
    """Return a dot in the colour of a method, nothing without one."""
    return f'<span class="dot" style="background:{escape(color)}"></span>' if color else ""


def table(
    groups: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[Sequence[str]],
    dots: Sequence[str | None] = (),
) -> str:
    """Return a table in a box of its own that scrolls where the page is narrower.

    Args:
        groups: a heading over some columns, and the headings of those columns. The first column
            of the first group names the rows.
        rows: cells.
        dots: a colour to stand before the name of each row.
    """
    starts = {sum(len(names) for _, names in groups[:index]) for index in range(1, len(groups))}

    def edge(column: int) -> str:
        return ' class="edge"' if column in starts else ""

    above, column = "", 0
    for heading, names in groups:
        above += f'<th colspan="{len(names)}" scope="colgroup"{edge(column)}>{escape(heading)}</th>'
        column += len(names)
    below = "".join(
        f'<th scope="col"{edge(index)}>{escape(name)}</th>'
        for index, name in enumerate(name for _, names in groups for name in names)
    )
    top = f"<tr>{above}</tr>" if any(heading for heading, _ in groups) else ""
    lines = []
    for index, row in enumerate(rows):
        color = dots[index] if index < len(dots) else None
        cells = "".join(f"<td{edge(i)}>{escape(c)}</td>" for i, c in enumerate(row) if i)
        lines.append(f'<tr><th scope="row">{dot(color)}{escape(row[0])}</th>{cells}</tr>')
    return (
        f'<div class="box" tabindex="0"><table><thead>{top}<tr>{below}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def preformatted(text: str) -> str:
    """Return text as it is."""
    return f"<pre>{escape(text.rstrip())}</pre>"


def command_lines(lines: Sequence[str]) -> str:
    """Return commands to be copied at once, each of which hangs where it is wrapped."""
    spans = [[f"<span>{escape(word)}</span>" for word in line.split(" ")] for line in lines]
    codes = "\n".join(f"<code>{' '.join(words)}</code>" for words in spans)
    return f'<pre class="lines">{codes}</pre>'


def details(heading: str, body: str) -> str:
    """Return something that opens on demand."""
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def definitions(docstring: str) -> str:
    """Return the bullet list of a docstring as HTML; ``*x*`` is emphasised, ````x```` is code."""
    items: list[str] = []
    for line in docstring.splitlines():
        if line.startswith("- "):
            items.append(line[2:])
        elif line.startswith("  ") and items:
            items[-1] += " " + line.strip()
    return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"


def _inline(text: str) -> str:
    marked = re.sub(r"``(.+?)``", r"<code>\1</code>", escape(text))
    return re.sub(r"\*(\w[^*]*)\*", r"<em>\1</em>", marked).replace("+-", "±")


def versions(found: Mapping[str, Any]) -> str:
    """Return names and versions in one line."""
    return '<p class="small">' + escape(", ".join(f"{k} {v}" for k, v in found.items())) + "</p>"
