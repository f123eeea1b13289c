"""A whole page: head, contents and blocks under headings of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

import attrs

from pktkit.report.figures import slug
from pktkit.report.page.elements import escape

FEWEST_FOR_CONTENTS = 4
"""From so many blocks on, a page starts with links to them."""

# Proof in the page itself that it asks for nothing: a browser refuses whatever is not named here.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@attrs.frozen
class Block:
    """One part of a page.

    Arguments:
        title: its heading, text.
        body: HTML below the heading.
        folded: whether a reader has to open it.
        short: what it is called in the contents; as in the heading, where not given.
    """

    title: str
    body: str
    folded: bool = False
    short: str = ""


def document(title: str, blocks: Sequence[Block], lead: str = "") -> str:
    """Return a whole page.

    Arguments:
        title: text.
        lead: HTML between title and contents.
    """
    named = list(zip(_identifiers(blocks), blocks, strict=True))
    parts = [f"<h1>{escape(title)}</h1>", lead, _contents(named)]
    parts += [_block(name, block) for name, block in named]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="generator" content="pktkit">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def facts(texts: Sequence[str]) -> str:
    """Return facts about a run as one line; nothing without any."""
    return f'<p class="facts">{escape(" · ".join(texts))}</p>' if texts else ""


def _block(name: str, block: Block) -> str:
    heading = f"<h2>{escape(block.title)}</h2>"
    if block.folded:
        return (
            f'<section class="folded" id="{name}">\n<details>\n<summary>{heading}</summary>\n'
            f"{block.body}\n</details>\n</section>"
        )
    return f'<section id="{name}">\n{heading}\n{block.body}\n</section>'


def _contents(named: Sequence[tuple[str, Block]]) -> str:
    if len(named) < FEWEST_FOR_CONTENTS:
        return ""
    links = "\n".join(
        f'<li><a href="#{name}">{escape(block.short or block.title)}</a></li>'
        for name, block in named
    )
    return f'<nav aria-label="Contents">\n<ul>\n{links}\n</ul>\n</nav>'


def _identifiers(blocks: Sequence[Block]) -> list[str]:
    """Return a name per block that no two of them share."""
    names: list[str] = []
    for block in blocks:
        stem = name = slug(block.short or block.title)
        number = 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


@cache
def _style() -> str:
    return resources.files("pktkit.report.page").joinpath("style.css").read_text(encoding="utf-8")
