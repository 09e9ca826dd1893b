"""`GET /docs`: the protocol as a page, made of `protocol.md`. A stylesheet is all that it loads."""

from __future__ import annotations

import asyncio
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse

from chatstream.web.page import HEADERS, assets

if TYPE_CHECKING:
    from markdown_it.token import Token

SOURCE = Path(__file__).parent.parent / "protocol.md"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = """\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <meta name="color-scheme" content="light dark" />
    <title>The chatstream protocol</title>
    <link rel="icon" href="static/icon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="static/docs.css" />
  </head>
  <body>
    <nav aria-label="Contents">
      <ul>
{contents}
      </ul>
    </nav>
    <main>
{text}
    </main>
  </body>
</html>
"""


async def docs(request: Request) -> Response:
    """`GET /docs`: the page."""
    # On a thread: the first reader's rendering takes tens of milliseconds.
    page, tag = await asyncio.to_thread(_rendered)
    headers = HEADERS | {"Content-Security-Policy": POLICY, "ETag": tag}
    response = Response(page, headers=headers, media_type="text/html")
    if assets.is_not_modified(response.headers, request.headers):
        return NotModifiedResponse(response.headers)
    return response


@cache
def _rendered() -> tuple[bytes, str]:
    page = render(SOURCE.read_text(encoding="utf-8")).encode()
    return page, f'"{hashlib.sha256(page).hexdigest()[:32]}"'


def render(markdown: str) -> str:
    """Return a page with an anchor for each heading, and a table of them."""
    # Here, since it takes longer to import than the rest of web/, and few servers show the page.
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = renderer.parse(markdown)
    contents: list[str] = []
    for heading, title in zip(tokens, tokens[1:], strict=False):
        if heading.type == "heading_open":
            heading.attrSet("id", anchor(title.content))
            if heading.tag != "h1":
                contents.append(_entry(heading, renderer.renderInline(title.content)))
    text = renderer.renderer.render(tokens, renderer.options, {})
    return _PAGE.format(contents="\n".join(contents), text=text)


def _entry(heading: Token, title: str) -> str:
    return f'<li class="{heading.tag}"><a href="#{heading.attrGet("id")}">{title}</a></li>'


def anchor(title: str) -> str:
    """
    Return the name by which a section is linked to; its number stays when its title changes.

    >>> anchor("3. HTTP"), anchor("A client is a fold")
    ('section-3', 'a-client-is-a-fold')
    """
    if number := re.match(r"(\d+)\. ", title):
        return f"section-{number[1]}"
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
