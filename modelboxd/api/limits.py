"""How much one client may ask for: requests per second, and wrong tokens."""

from __future__ import annotations

from collections import OrderedDict

from modelboxd.api.problems import Problem

CLIENTS_MAX = 10_000  # addresses that are remembered
WRONG_TOKENS, WRONG_TOKENS_S = 20, 60.0


class Rate:
    """At most `rate` a second for each client, in bursts of `burst`. Times are of any clock in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def take(self, client: str, now: float) -> float:
        """0.0: it may; else in how many seconds it may. What is refused does not count."""
        left = self.left(client, now)
        if left < 1.0:
            return (1.0 - left) / self._rate
        self._put(client, left - 1.0, now)
        return 0.0

    def left(self, client: str, now: float) -> float:
        """How many it may send at once."""
        left, since = self._clients.get(client, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)

    def _put(self, client: str, left: float, now: float) -> None:
        self._clients[client] = left, now
        self._clients.move_to_end(client)
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)


class Limits:
    """The limits of the API by client address. [I/O thread]"""

    def __init__(self, rate: int) -> None:
        """`rate`: requests per second, 0 = no limit."""
        self._requests = Rate(rate, max(1, rate)) if rate else None
        self._wrong_tokens = Rate(WRONG_TOKENS / WRONG_TOKENS_S, WRONG_TOKENS)

    def check_request(self, client: str, now: float) -> None:
        """Counts a request. Raises Problem."""
        wait = self._requests.take(client, now) if self._requests else 0.0
        if wait:
            raise _too_many("too many requests", wait)

    def check_guesses(self, client: str, now: float) -> None:
        """Whether it may still try tokens. Raises Problem."""
        if self._wrong_tokens.left(client, now) < 1.0:
            raise _too_many("too many wrong tokens", WRONG_TOKENS_S / WRONG_TOKENS)

    def wrong_token(self, client: str, now: float) -> None:
        """Counts one."""
        self._wrong_tokens.take(client, now)


def _too_many(what: str, wait_s: float) -> Problem:
    return Problem(429, "too_many_requests", f"{what}; try again later", {"Retry-After": str(int(wait_s) + 1)})
