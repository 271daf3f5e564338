"""Adapts an outside JSON service: polls it for orders, makes each a task of the job `orders`, posts results back.

The outside service has `GET /orders?after=N` -> [{"id": N, "items": [...]}, ...] and `POST /results`.
"""

import asyncio
import json
import logging
import urllib.request

from modelbox.plugin import HttpError, Plugin

log = logging.getLogger("plugin.orders")
TIMEOUT_S = 10
RETRIES = 5


class Orders(Plugin):
    name = "orders"

    def init(self, config):
        self.url = config["url"].rstrip("/")
        self.job = config.get("job", "orders")
        self.last = 0  # id of the last order that was taken
        self.posted = 0
        self.service.every(config.get("poll_s", 1), self.poll)
        self.service.route("GET", "/orders/state", self.state, role="read", summary="How far the adapter is")
        schema = {"type": "object", "properties": {"items": {"type": "array"}}, "required": ["items"]}
        self.service.route("POST", "/orders/now", self.now, body=schema, summary="Sums up one order at once")

    async def poll(self):
        """Takes the orders that are new. What it raises is told, and it is called again."""
        orders = await asyncio.to_thread(self.ask, f"/orders?after={self.last}")
        await asyncio.gather(*(self.work(order) for order in orders))
        self.last = max((order["id"] for order in orders), default=self.last)

    async def work(self, order):
        summary = await self.summarize(order)
        for attempt in range(RETRIES):
            try:
                await asyncio.to_thread(self.ask, "/results", {"id": order["id"], **summary})
                self.posted += 1
                return
            except OSError as error:
                log.warning("the result of order %s was not taken: %s", order["id"], error)
                await asyncio.sleep(2**attempt)

    async def summarize(self, order):
        task = await self.service.submit(self.job, {"order": json.dumps(order)})
        task = await self.service.result(task.id)
        return json.loads(task.outputs[0].text) if task.state == "succeeded" else {"error": task.error}

    async def now(self, request):
        summary = await self.summarize(request.json())
        if "error" in summary:
            raise HttpError(422, "bad_order", summary["error"])
        return summary

    def state(self, request):
        return {"last": self.last, "posted": self.posted}

    def ask(self, path, value=None):
        """One request to the outside service."""
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read() or "null")
