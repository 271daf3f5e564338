"""httpserver_async: one session per HTTP request, answered 202 as soon as it is taken.

Ports: as httpserver_sync_receive. `max_requests` bounds the sessions that have not ended.
"""

from __future__ import annotations

from modelboxd.engine.feed import CoreList
from modelboxd.engine.unit import SessionView
from modelboxd.server.answer import json_answer
from modelboxd.server.receive import HttpSource
from modelboxd.server.reply import Reply


class HttpServerAsync(HttpSource):
    def _serve(self, reply: Reply, items: CoreList) -> None:
        session = self.entry.open(None, self._ended)
        self.in_flight += 1  # until the session ends; the request's own share ends with the answer
        self.entry.send_list(session, self.port_name, items, end=True)
        reply.give(json_answer(202, {"session_id": session.id}))

    def _ended(self, session: SessionView) -> None:
        self.services.io.call(self._finish)

    def _finish(self) -> None:
        self.in_flight -= 1
