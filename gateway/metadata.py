"""Metadata and writes: relayed by the route table, cleaned of keys."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.access import Caller, Credential
from gateway.calls import Call, Redash, UpstreamAnswer
from gateway.definitions import Definitions
from gateway.errors import UpstreamRefused
from gateway.model import Answer, Body
from gateway.outcome import Outcome, Sender
from gateway.redact import without_keys
from gateway.redash.requests import Relay, write_arguments
from gateway.redash.routes import Match

_OFF_LOOP_BYTES: Final = 64 * 1024


class Metadata:
    """Everything of Redash's API that is no result and no job."""

    def __init__(self, upstream: Redash, definitions: Definitions) -> None:
        self._upstream = upstream
        self._definitions = definitions

    async def relay(
        self, caller: Caller, credential: Credential, match: Match, operation: Relay, sender: Sender, outcome: Outcome
    ) -> Answer:
        """Pass the request on and the answer back.

        Raises:
            UpstreamRefused: any status but 2xx, as Redash gave it.
        """
        call = Call(
            method=match.route.method,
            path=operation.path,
            route=match.route.template,
            query=write_arguments(operation.arguments),
            body=operation.body,
        )
        outcome.went("method" if match.route.kind == "write" else "bypass")
        answer = await self._upstream.send(credential, call, sender)
        if match.route.kind == "write" and operation.query_id is not None:
            self._definitions.drop(operation.query_id)
        body = await self._cleaned(caller, match, answer)
        if not 200 <= answer.status < 300:
            raise UpstreamRefused(answer.status, body, answer.content_type)
        return Answer(status=answer.status, body=body, content_type=answer.content_type)

    async def _cleaned(self, caller: Caller, match: Match, answer: UpstreamAnswer) -> Body:
        if caller.settings.reveal_keys or not match.route.keys:
            return answer.body
        if answer.body.size > _OFF_LOOP_BYTES:
            return Body.of(await asyncio.to_thread(lambda: without_keys(answer.body.load())))
        return Body.of(without_keys(answer.body.load()))
