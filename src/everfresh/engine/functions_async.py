"""`cached` of an `AsyncCache`: coroutine functions, whose tables are looked up without blocking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everfresh.engine.fills import Fills
from everfresh.engine.functions import Calls, FunctionOptions
from everfresh.engine.reader import Reader
from everfresh.engine.request import Request
from everfresh.engine.running import Runner, objection

__all__ = ["AsyncCalls"]


class AsyncCalls(Calls):
    """Turn calls of one coroutine function into requests."""

    def __init__(
        self,
        function: Callable[..., Any],
        fills: Fills,
        reader: Reader,
        options: FunctionOptions,
        runner: Runner,
    ) -> None:
        super().__init__(function, fills, reader, options)
        self._runner = runner

    async def asking(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Request, str | None]:
        """Return what to ask the engine for a call, and why nothing kept may answer it now."""
        self.fills.board.check_open()
        if self.options.depends_on:  # whose schema may have to be read
            request = await self._runner.run(self.request, args, kwargs)
        else:
            request = self.request(args, kwargs)
        return request, await objection(self.proof, self._rule, request.sources)
