"""Static pages of a server: HTML behind one shared head, with their scripts and style sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from fastapi import FastAPI, Response

CONTENT_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def add_pages(
    app: FastAPI, package: str, pages: Mapping[str, str], assets: Sequence[str], *, asks_for_token: bool = False
) -> None:
    """Add routes for the files in the templates folder of `package`, and for the style sheet that all pages share.

    pages: path -> HTML file, which starts behind `head.html`. assets: scripts and style sheets, served under /page/.
    Every file is read once, at start: no request names a file.
    """
    templates, web = files(package) / "templates", files("bestiary.web")
    head = (web / "head.html").read_text(encoding="utf-8")
    if asks_for_token:
        head = head.replace("<html", "<html data-token")
    sources = {path: templates / file for path, file in pages.items()}
    sources |= {f"/page/{file}": templates / file for file in assets} | {"/page/style.css": web / "style.css"}
    for path, source in sources.items():
        text, suffix = source.read_text(encoding="utf-8"), source.name.rpartition(".")[2]
        _add_text(app, path, head + text if suffix == "html" else text, CONTENT_TYPES[suffix])


def _add_text(app: FastAPI, path: str, text: str, content_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(text, media_type=f"{content_type}; charset=utf-8", headers={"Cache-Control": "no-cache"})
