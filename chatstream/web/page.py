"""The chat page and its parts, with validators, cache headers and a strict content policy."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types dompurify chatstream"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Always asked anew, and answered 304: a new release is seen at the next load.
    "Cache-Control": "no-cache",
}


def folder() -> Path:
    """Return where the page lies: beside the package in a checkout, inside it once installed."""
    inside = Path(__file__).parent.parent / "static"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "static"


class Assets(StaticFiles):
    """The page's parts."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or raise 404, or 405 with what may be done with it."""
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


assets = Assets(directory=folder())


async def index(request: Request) -> Response:
    """`GET /`: the page."""
    return await assets.get_response("index.html", request.scope)
