"""httpserver_async: one session per HTTP request, answered 202 as soon as it is taken.

Ports: as httpserver_sync_receive. `max_requests` bounds the sessions that have not ended.
"""

from __future__ import annotations

from aiohttp import web

from modelboxd.engine.unit import SessionView
from modelboxd.server.listener import SECURITY_HEADERS
from modelboxd.server.receive import HttpSource


class HttpServerAsync(HttpSource):
    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        items = await self.read(request)
        session = self.entry.open(None, self._ended)
        self.in_flight += 1  # until the session ends; the request's own share ends with the answer
        self.entry.send_list(session, self.port_name, items, end=True)
        return web.json_response({"session_id": session.id}, status=202, headers=SECURITY_HEADERS)

    def _ended(self, session: SessionView) -> None:
        self.services.io.call(self._finish)

    def _finish(self) -> None:
        self.in_flight -= 1
