"""What the processes that share a PostgreSQL do to a store, each step one function on the server.

``kept`` holds the entries with their ranks, ``pool`` the counts of each store; whoever changes
anything locks its row of ``pool`` first. Ranks are those of `kernel.score`.
"""

from __future__ import annotations

from everfresh.connect.wires import SCHEMA

__all__ = ["made"]

_PUT = f"""CREATE OR REPLACE FUNCTION {SCHEMA}.put_1(s text, policy text, growth float8, k text,
  b bytea, size bigint, dens float8, most bigint, fence text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  gone text[];
BEGIN
  INSERT INTO {SCHEMA}.pool (store) VALUES (s) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM {SCHEMA}.pool WHERE store = s FOR UPDATE;
  IF fence IS NOT NULL THEN
    IF NOT EXISTS (SELECT FROM {SCHEMA}.lease
        WHERE store = s AND key = k AND token = fence::bigint) THEN
      RETURN NULL;
    END IF;
  END IF;
  DELETE FROM {SCHEMA}.kept WHERE store = s AND key = k;
  INSERT INTO {SCHEMA}.kept (store, key, body, bytes, density) VALUES (s, k, b, size, dens);
  PERFORM {SCHEMA}.touch_1(s, policy, growth, ARRAY[k]);
  RETURN {SCHEMA}.shrink_1(s, most, k);
END $$"""

_TOUCH = f"""CREATE OR REPLACE FUNCTION {SCHEMA}.touch_1(s text, policy text, growth float8,
  ks text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  k text;
  n bigint;
  gain float8;
  low float8;
BEGIN
  PERFORM 1 FROM {SCHEMA}.pool WHERE store = s FOR UPDATE;
  FOREACH k IN ARRAY ks LOOP
    UPDATE {SCHEMA}.pool SET touches = touches + 1 WHERE store = s RETURNING touches, floor
      INTO n, low;
    IF policy = 'half_life' THEN
      gain := n * growth;
      UPDATE {SCHEMA}.kept SET weight = CASE WHEN weight = 0 THEN gain ELSE
        greatest(weight, gain) + ln(1 + exp(least(weight, gain) - greatest(weight, gain))) END
        WHERE store = s AND key = k;
      UPDATE {SCHEMA}.kept SET rank = weight + density WHERE store = s AND key = k;
    ELSIF policy = 'gdsf' THEN
      UPDATE {SCHEMA}.kept SET weight = weight + 1, rank = low + (weight + 1) * exp(density)
        WHERE store = s AND key = k;
    ELSE
      UPDATE {SCHEMA}.kept SET rank = n WHERE store = s AND key = k;
    END IF;
  END LOOP;
END $$"""

_SHRINK = f"""CREATE OR REPLACE FUNCTION {SCHEMA}.shrink_1(s text, most bigint, fresh text)
  RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  over bigint := coalesce((SELECT sum(bytes) FROM {SCHEMA}.kept WHERE store = s), 0) - most;
  victim record;
  gone text[] := ARRAY[]::text[];
BEGIN
  IF over <= 0 THEN RETURN gone; END IF;
  FOR victim IN SELECT key, bytes FROM {SCHEMA}.kept WHERE store = s ORDER BY rank, key COLLATE "C"
  LOOP
    gone := gone || victim.key;
    over := over - victim.bytes;
    IF victim.key = fresh THEN
      gone := ARRAY[fresh];
      EXIT;
    END IF;
    EXIT WHEN over <= 0;
  END LOOP;
  UPDATE {SCHEMA}.pool SET floor = greatest(floor,
    (SELECT max(rank) FROM {SCHEMA}.kept WHERE store = s AND key = ANY (gone))) WHERE store = s;
  DELETE FROM {SCHEMA}.kept WHERE store = s AND key = ANY (gone);
  RETURN gone;
END $$"""


_KEPT = f"""TABLE IF NOT EXISTS {SCHEMA}.kept (store text NOT NULL, key text NOT NULL,
  body bytea NOT NULL, bytes bigint NOT NULL, density float8 NOT NULL,
  weight float8 NOT NULL DEFAULT 0, rank float8 NOT NULL DEFAULT 0, PRIMARY KEY (store, key))"""

_POOL = f"""TABLE IF NOT EXISTS {SCHEMA}.pool (store text PRIMARY KEY,
  touches bigint NOT NULL DEFAULT 0, floor float8 NOT NULL DEFAULT 0)"""

_RANKED = f"CREATE INDEX IF NOT EXISTS kept_by_rank ON {SCHEMA}.kept (store, rank)"


def made(*, logged: bool) -> tuple[str, ...]:
    """Return what makes the tables; those that are not ``logged`` are empty after a crash."""
    kind = "CREATE" if logged else "CREATE UNLOGGED"
    return (f"{kind} {_KEPT}", _RANKED, f"{kind} {_POOL}", _SHRINK, _TOUCH, _PUT)
