"""What each request asked, hit and paid: for Flask, Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from everfresh.engine.reading import Questions, asked

__all__ = ["ServerTimingMiddleware", "server_timing"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def server_timing(questions: Questions) -> str:
    """Return the value of a ``Server-Timing`` header, which browsers show beside a request.

    >>> server_timing(Questions())
    'db;dur=0.0;desc="0 statements", cache;desc="0 hits"'
    """
    spent = sum(one.seconds for one in questions) * 1000
    count = len(questions) - questions.hits
    parts = [f'db;dur={spent:.1f};desc="{count} statements"', f'cache;desc="{questions.hits} hits"']
    repeated = questions.repeated()
    if repeated:
        parts.append(f'nplusone;desc="{max(repeated.values())} times the same statement"')
    return ", ".join(parts)


class ServerTimingMiddleware:
    """Tell in a ``Server-Timing`` header what a request asked: ASGI, for Starlette and FastAPI.

    ``seen`` is called with the scope and the `Questions` of each request, for logs.
    """

    def __init__(
        self, app: Any, seen: Callable[[MutableMapping[str, Any], Questions], None] | None = None
    ) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with asked() as questions:

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    value = server_timing(questions).encode("latin-1", "replace")
                    message["headers"] = [*message.get("headers", ()), (b"server-timing", value)]
                await send(message)

            await self.app(scope, receive, told)
            if self.seen is not None:
                self.seen(scope, questions)
