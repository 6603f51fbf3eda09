"""Leases over processes in PostgreSQL, where no other server is wanted.

The owner of a key holds an advisory lock, which the server gives back when its connection ends: who
waits for the lock is woken then. Beside it a row holds the newest token and when the right ends
although the connection lives: a process may be stopped. Both need a connection of one's own, so a
pooler that lends one for each transaction will not do.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from threading import Lock

from everfresh.connect.wire import Wire
from everfresh.connect.wires import SCHEMA, Wires
from everfresh.errors import ConnectionFailedError
from everfresh.leases.shared import Hearts, Held, Taken

__all__ = ["PostgresLeases"]

# tokens grow although rows go, with their release and in a crash: they are never below the clock
_ACQUIRE = f"""CREATE OR REPLACE FUNCTION {SCHEMA}.acquire_1(s text, k text, seconds float8)
  RETURNS TABLE (granted bigint, wait float8) LANGUAGE plpgsql AS $$
DECLARE
  mine boolean := pg_try_advisory_lock(hashtextextended(s || '/' || k, 0));
  ended timestamptz;
BEGIN
  SELECT ends INTO ended FROM {SCHEMA}.lease WHERE store = s AND key = k;
  IF NOT mine AND (ended IS NULL OR ended > clock_timestamp()) THEN
    RETURN QUERY SELECT 0::bigint,
      coalesce(extract(epoch FROM ended - clock_timestamp())::float8, seconds);
    RETURN;
  END IF;
  RETURN QUERY INSERT INTO {SCHEMA}.lease AS l (store, key, token, ends)
    VALUES (s, k, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
            clock_timestamp() + make_interval(secs => seconds))
    ON CONFLICT (store, key) DO UPDATE SET token = greatest(l.token + 1, excluded.token),
      ends = excluded.ends
    RETURNING token, 0::float8;
END $$"""

_TABLE = f"""CREATE UNLOGGED TABLE IF NOT EXISTS {SCHEMA}.lease (store text, key text,
  token bigint NOT NULL, ends timestamptz NOT NULL, PRIMARY KEY (store, key))"""
_MADE = (_TABLE, _ACQUIRE)
_TIMEOUT = 5.0  # seconds for one answer
_OWED = 1000  # rights to be given back when the server is back; more end by themselves
_LOCK = "hashtextextended($1 || '/' || $2, 0)"


class PostgresLeases:
    """Say who may fill a key, over all processes that use one store of a PostgreSQL."""

    def __init__(self, parameters: str, name: str, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._parameters, self._name = parameters, name
        self._wires = Wires(parameters, _TIMEOUT, _MADE)
        self._holder: Wire | None = None  # its session holds the locks of all that is held
        self._lock, self._process = Lock(), os.getpid()
        self._owed: deque[Held] = deque(maxlen=_OWED)
        self._hearts = Hearts(self._beat, seconds / 3)

    def acquire(self, key: str) -> Held | Taken | None:
        """Return the right to fill a key, who has it, or None if nobody can tell."""
        self._settle()
        statement = f"SELECT granted, wait FROM {SCHEMA}.acquire_1($1, $2, $3)"
        found = self._ask(statement, self._name, key, str(self.seconds))
        if not found:
            return None
        granted, wait = found[0]
        if granted == "0":
            return Taken(max(float(wait or 0), 0.001))
        held = Held(key, int(granted or 0))
        self._hearts.add(held)
        return held

    def wait(self, key: str, seconds: float) -> None:
        """Wait until the holder of a key gives it back, or dies, or this many seconds."""
        with suppress(ConnectionFailedError), self._wires.lend(seconds + 5.0) as wire:
            limit = max(int(seconds * 1000), 1)
            wire.rows(f"SET lock_timeout = {limit}")
            try:
                wire.rows(f"SELECT pg_advisory_lock_shared({_LOCK})", self._name, key)
                wire.rows(f"SELECT pg_advisory_unlock_shared({_LOCK})", self._name, key)
            except ConnectionFailedError:
                if wire.closed:
                    raise
            wire.rows("RESET lock_timeout")

    def release(self, held: Held) -> None:
        """Give a right back and wake those who wait for it."""
        self._hearts.remove(held)
        self._owed.append(held)
        self._settle()

    def close(self) -> None:
        """Stop, and give back all that is held."""
        self._hearts.close()
        if self._holder is not None:
            self._holder.close()
        self._wires.close()

    def _settle(self) -> None:
        """Give back what is to be given back, as soon as the server can be told."""
        statement = (
            f"WITH gone AS (DELETE FROM {SCHEMA}.lease"
            " WHERE store = $1 AND key = $2 AND token = $3::bigint RETURNING 1)"
            f" SELECT pg_advisory_unlock({_LOCK}), (SELECT count(*) FROM gone)"
        )
        with suppress(IndexError):
            while held := self._owed.popleft():
                if self._ask(statement, self._name, held.key, str(held.token)) is None:
                    self._owed.append(held)
                    return

    def _beat(self, held: Held) -> bool:
        statement = (
            f"UPDATE {SCHEMA}.lease SET ends = clock_timestamp() + make_interval(secs => $4)"
            " WHERE store = $1 AND key = $2 AND token = $3::bigint RETURNING 1"
        )
        given = (self._name, held.key, str(held.token), str(self.seconds))
        found = self._ask(statement, *given)
        return found is None or bool(found)  # a server that cannot be asked is asked again

    def _ask(self, statement: str, *parameters: str) -> list[tuple[str | None, ...]] | None:
        """Ask on the connection that holds the locks; None if it cannot be asked."""
        breaker = self._wires.breaker
        if not breaker.closed:
            return None
        if self._process != os.getpid():  # a thread of the parent's may hold its lock for ever
            self._lock, self._process = Lock(), os.getpid()
        with self._lock:
            try:
                return self._session().rows(statement, *parameters, prepare=True)
            except ConnectionFailedError as error:
                breaker.failed(str(error))
                if self._holder is not None:
                    self._holder.close()  # its locks are gone with it; tokens fence what it held
                return None

    def _session(self) -> Wire:
        if self._holder is None or self._holder.closed or self._holder.foreign:
            with self._wires.lend():
                pass  # so that what is used is there
            self._holder = Wire(self._parameters, timeout=_TIMEOUT, settings="SET TimeZone = 'UTC'")
        return self._holder
