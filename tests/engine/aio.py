"""What the asyncio tests share: drivers, and a gate that holds queries of flights."""

import asyncio
from concurrent.futures import Future

import sqlalchemy as sa
from sqlalchemy.util import await_only

SQLITE = ("sqlite", "sqlite+aiosqlite")
POSTGRES = ("postgresql+psycopg", "postgresql+psycopg_async", "postgresql+asyncpg")


def run(story):
    """Run a coroutine; nothing may hang."""
    return asyncio.run(asyncio.wait_for(story, 30))


async def turns(count=20):
    """Let every other task go as far as it can."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """Hold the first queries of flights until `open`; later ones pass. `asked` counts them all."""

    def __init__(self, engine, hold=1):
        self.asked, self._hold = 0, hold
        self._reached, self._opened = Future(), Future()
        self._is_async = engine.dialect.is_async
        sa.event.listen(engine, "before_cursor_execute", self._before)

    def _before(self, conn, cursor, statement, parameters, context, executemany):
        if "flights" not in statement or not statement.startswith("SELECT"):
            return
        self.asked += 1
        if self.asked > self._hold:
            return
        if not self._reached.done():
            self._reached.set_result(None)
        if self._is_async:
            await_only(asyncio.shield(asyncio.wrap_future(self._opened)))
        else:
            self._opened.result(20)

    async def reached(self):
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._reached)), 20)

    def open(self):
        self._opened.set_result(None)
