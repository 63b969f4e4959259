"""What a browser can do: sign in and out, purge, reload, end a run. Plain forms; each leads back to a page."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.admin import explain_page, shell
from gateway.admin.gate import Gate
from gateway.admin.operations import Operations
from gateway.admin.shell import Frame
from gateway.errors import BadRequest, GatewayError
from gateway.http.bodies import Bodies
from gateway.http.request import read_body

events = logging.getLogger("gateway.events")

MOST_FORM_BYTES: Final = 4_096
_PAGE: Final = re.compile(r"(?:queries/\d{1,16})?")
"""Where a form may lead back to."""

Act = Callable[[Mapping[str, str]], Awaitable[str]]


class Actions:
    """The forms of the console."""

    def __init__(
        self, operations: Operations, gate: Gate, bodies: Bodies, frame: Callable[[web.Request], Frame]
    ) -> None:
        self._operations = operations
        self._gate = gate
        self._bodies = bodies
        self._frame = frame

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.add_routes(
            [
                web.get("/sign-in", self._ask),
                web.post("/sign-in", self._sign_in),
                web.post("/sign-out", self._sign_out),
                web.get("/explain", self._ask_why),
                web.post("/explain", self._explain),
                web.post("/actions/purge", self._acting(self._purge)),
                web.post("/actions/reload", self._acting(self._reload)),
                web.post("/actions/end-run", self._acting(self._end_run)),
            ]
        )

    async def _ask(self, request: web.Request) -> web.Response:
        return page(shell.sign_in(self._frame(request)))

    async def _sign_in(self, request: web.Request) -> web.Response:
        fields = await self._fields(request)
        if not self._gate.is_token(fields.get("token", "")):
            events.warning("somebody tried to sign in to the console with a wrong token")
            return page(shell.sign_in(self._frame(request), "This is not the admin token."), status=403)
        response = _to("./")
        self._gate.sign_in(request, response)
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        self._gate.check_form(request, await self._fields(request))
        response = _to("./")
        self._gate.sign_out(request, response)
        return response

    def _acting(self, act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            fields = await self._fields(request)
            session = self._gate.check_form(request, fields)
            try:
                session.notice = await act(fields)
            except GatewayError as error:
                session.notice = f"Nothing was done: {error.detail}"
            back = fields.get("back", "")
            return _to(f"../{back if _PAGE.fullmatch(back) else ''}")

        return handle

    async def _purge(self, fields: Mapping[str, str]) -> str:
        match fields.get("what"), fields.get("which", "").strip():
            case "query" | "data_source" as kind, number if number.isdecimal() and len(number) < 20:
                what: Mapping[str, object] = {kind: int(number)}
            case "tag", tag:
                what = {"tag": tag}
            case "scope", scope:
                what = {"scope": scope}
            case "all", _:
                what = {"all": True}
            case _:
                raise BadRequest("name a query or a data source by its number, a tag, or a credential.")
        entries, notes = await self._operations.purge(what)
        (name, of), *_ = what.items()
        done = f"Purged {name if of is True else f'{name} {of}'}: {entries} entries."
        return " ".join([done, *(f"{note}." for note in notes)])

    async def _reload(self, _: Mapping[str, str]) -> str:
        reloaded = await self._operations.reload(everywhere=True)
        changed = f"Changed: {', '.join(reloaded.changed) or 'nothing'}."
        return " ".join(["The configuration was loaded again.", changed, *(f"{note}." for note in reloaded.notes)])

    async def _end_run(self, fields: Mapping[str, str]) -> str:
        if await self._operations.end_run(fields.get("run", "")):
            return "The run was cancelled; its callers have a failed job."
        return (
            "The run cannot be cancelled: its result is arriving, Redash has not accepted it yet, another run shares "
            "its job, another gateway leads it, or it uses a query's own key, which may not cancel in Redash."
        )

    async def _ask_why(self, request: web.Request) -> web.Response:
        return page(explain_page.render(self._frame(request), self._clients(), {}, None))

    async def _explain(self, request: web.Request) -> web.Response:
        fields = await self._fields(request)
        self._gate.check_form(request, fields)
        explanation, trouble = None, ""
        try:
            explanation = await self._operations.explain(explain_page.question_of(fields))
        except GatewayError as error:
            trouble = error.detail
        return page(explain_page.render(self._frame(request), self._clients(), fields, explanation, trouble))

    def _clients(self) -> list[str]:
        return sorted(self._gate.settings().clients)

    async def _fields(self, request: web.Request) -> Mapping[str, str]:
        """Return the fields of a form."""
        try:
            body = await read_body(request, MOST_FORM_BYTES, self._bodies)
        finally:
            self._bodies.release(request.task)
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
        except ValueError:  # not UTF-8, or more fields than any form has
            raise BadRequest("The body is not a form of the console.") from None


def page(html: str, status: int = 200) -> web.Response:
    """Return a page that no cache keeps."""
    return web.Response(text=html, status=status, content_type="text/html", headers={"Cache-Control": "no-store"})


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
