"""httpserver_sync_receive: one session per HTTP request; the client waits for the graph's reply.

Ports:   out: out_request_info, kind STRING, the body; meta size, method, uri, headers (dict), endpoint
Answers: 400 malformed, 404 path, 405 method, 408 time_out_ms, 413 max_body_size, 429 max_requests,
         417, 431 headers, 503 back-pressure or stopping; /health below the endpoint is answered here.
"""

from __future__ import annotations

from modelbox.configuration import Configuration
from modelbox.errors import TimedOutError
from modelboxd.engine.feed import CoreList
from modelboxd.engine.unit import Services
from modelboxd.graph.model import Node
from modelboxd.server.answer import error_answer
from modelboxd.server.receive import HttpSource
from modelboxd.server.reply import Reply


class HttpServerSyncReceive(HttpSource):
    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self.time_out_ms = self.at_least(1, "time_out_ms", 5000)
        self.limit_s = self.time_out_ms / 1000

    def _serve(self, reply: Reply, items: CoreList) -> None:
        # The reply unit finds its partner under "reply".
        session = self.entry.open({"reply": reply}, reply.ended)
        reply.session = session
        self.wait(reply)
        self.entry.send_list(session, self.port_name, items, end=True)

    def _late(self, reply: Reply) -> None:
        what = f"no reply within {self.time_out_ms} ms"
        reply.abort(error_answer(408, what), TimedOutError(f"node '{self.node.name}': {what}"))
