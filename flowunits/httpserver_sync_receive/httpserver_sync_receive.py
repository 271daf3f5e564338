"""httpserver_sync_receive: one session per HTTP request; the client waits for the graph's reply.

Ports:   out: out_request_info, kind STRING, the body; meta size, method, uri, headers (dict), endpoint
Answers: 400 malformed, 404 path, 405 method, 408 time_out_ms, 413 max_body_size, 429 max_requests,
         417, 431 headers, 503 back-pressure or stopping; /health below the endpoint is answered here.
"""

from __future__ import annotations

from aiohttp import web

from modelbox.configuration import Configuration
from modelbox.errors import ShutdownError, TimedOutError
from modelboxd.engine.unit import Services, SessionView
from modelboxd.graph.model import Node
from modelboxd.server.receive import HttpSource, private_of
from modelboxd.server.reply import Reply


class HttpServerSyncReceive(HttpSource):
    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self.time_out_ms = config.get_int("time_out_ms", 5000)
        self.read_timeout_s = self.time_out_ms / 1000

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        items = await self.read(request)
        reply = Reply(self.services.io)
        session = self.entry.open(private_of(reply), reply.ended)
        timer = self.services.io.loop.call_later(self.time_out_ms / 1000, self._late, reply, session)
        answered = False
        try:
            self.entry.send_list(session, self.port_name, items, end=True)
            del items
            response: web.Response = await reply
            answered = True
            return response
        finally:
            timer.cancel()
            if not answered:  # the client closed its connection, which cancels this handler; or a bug
                session.cancel(ShutdownError("nobody waits for the answer any more"))

    def _late(self, reply: Reply, session: SessionView) -> None:
        if reply.time_out(self.time_out_ms):
            session.cancel(TimedOutError(f"node '{self.node.name}': no reply within {self.time_out_ms} ms"))
