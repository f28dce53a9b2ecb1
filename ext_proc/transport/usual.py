"""The headers of a connection's usual calls: nearly all repeat them, and comparing them is cheaper than parsing. Pure.

Routes that share a connection differ in :attr:`~ext_proc.transport.grpc_protocol.Call.choice`, and their calls take
turns: parsing each cost a quarter of a call, looking it up costs a tenth.
"""

from __future__ import annotations

from typing import Final

from ext_proc.transport.grpc_protocol import Call

Headers = tuple[tuple[bytes, bytes], ...]

MOST: Final = 32
"""How many are remembered: one for each route, or few."""

LONGEST: Final = 1024
"""Most bytes of headers that are remembered; Envoy's have some 300."""


class Usual:
    """What one connection's calls have asked for.

    Args:
        call: what calls ask for before there was any.

    Attributes:
        headers: of the last usual call; empty before the first.
        call: what it asked for.
    """

    __slots__ = ("_always_new", "_known", "call", "headers")

    def __init__(self, call: Call) -> None:
        self.headers: Headers = ()
        self.call = call
        self._known: dict[Headers, Call] = {}
        self._always_new = False

    def recall(self, headers: Headers) -> bool:
        """Whether earlier calls had these headers; then they are those of the last one from now on."""
        known = self._known
        if not known or (call := known.get(headers)) is None:
            return False
        self.headers, self.call = headers, call
        return True

    def remember(self, headers: Headers, call: Call) -> None:
        """Note the headers of a usual call, and what they ask for."""
        self.headers, self.call = headers, call
        if self._always_new or sum(len(name) + len(value) for name, value in headers) > LONGEST:
            return
        if len(self._known) < MOST:
            self._known[headers] = call
            return
        # Something in them is new each time, such as a trace's id: to look them up is of no use.
        self._known.clear()
        self._always_new = True
