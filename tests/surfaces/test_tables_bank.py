"""Accounts whose balances sum to zero, written by other processes, read through a cached table."""

import asyncio
import os
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.tables import AttributeIndexes, ByAttributes, CachedTable, SqlAlchemyAccess
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import in_loop

ACCOUNTS = 12
SECONDS = 60.0 if os.environ.get("EVERFRESH_SOAK") else 2.5
WRITER = """
import random, sys, time
import sqlalchemy as sa
url, seed, seconds, accounts = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
engine, chance, until = sa.create_engine(url), random.Random(seed), time.monotonic() + seconds
done = 0
while time.monotonic() < until:
    one, other = sorted(chance.sample(range(accounts), 2))
    amount = chance.randint(-9, 9)
    try:
        with engine.begin() as connection:
            for number, change in ((one, amount), (other, -amount)):
                connection.execute(
                    sa.text("UPDATE accounts SET balance = balance + :c, version = version + 1 WHERE id = :n"),
                    {"c": change, "n": number},
                )
        done += 1
    except sa.exc.OperationalError:
        pass
    time.sleep(chance.random() * 0.02)
print(done)
"""


def fill(url):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, version INTEGER)"
            )
        )
        rows = [{"n": n} for n in range(ACCOUNTS)]
        connection.execute(sa.text("INSERT INTO accounts VALUES (:n, 0, 0)"), rows)
    engine.dispose()


async def bank(url, dialect, freshness):
    fill(url)
    with everfresh.open(url, freshness=freshness) as cache:
        cache.track()
        indexes = AttributeIndexes(
            "SELECT * FROM accounts", "id", dialect=dialect, by_balance=ByAttributes("balance")
        )
        access = SqlAlchemyAccess(cache.engine)
        table = CachedTable(indexes, access, LocalStorageTable(indexes), cache=cache)
        await table.load("primary_key")
        seed = int(time.time())
        print("seed", seed)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, url, str(seed + n), str(SECONDS), str(ACCOUNTS)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        try:
            reads, versions = 0, dict.fromkeys(range(ACCOUNTS), 0)
            while any(writer.poll() is None for writer in writers):
                for spec in (("primary_key",), ("by_balance",)):
                    found = await table.get_records_list(*spec)
                    assert len(found) == ACCOUNTS
                    assert sum(record["balance"] for record in found) == 0, (
                        "half a transfer was shown"
                    )
                    for record in found:
                        assert record["version"] >= versions[record["id"]], "an account went back"
                        versions[record["id"]] = record["version"]
                with cache.engine.begin() as connection:  # a transfer of our own is seen at once
                    statement = "UPDATE accounts SET balance = balance + :c, version = version + 1 WHERE id = :n"
                    for n, change in ((0, 1), (1, -1)):
                        connection.execute(sa.text(statement), {"c": change, "n": n})
                mine = (await table.get_many([0]))[0]["version"]
                assert mine > versions[0]
                reads += 1
                await asyncio.sleep(0.001)
        finally:
            if sys.exc_info()[0] is not None:
                for writer in writers:
                    writer.kill()
                    writer.communicate()
        done = sum(int(writer.communicate(timeout=30)[0]) for writer in writers)
        assert done > 20
        assert reads > 20
        if freshness == "strict":
            with cache.engine.connect() as connection:
                true = {
                    row.id: row.balance
                    for row in connection.execute(sa.text("SELECT * FROM accounts"))
                }
            found = await table.get_records_list("primary_key")
            assert {record["id"]: record["balance"] for record in found} == true
        await table.close()


@pytest.mark.parametrize("freshness", ["strict", "bounded"])
@in_loop
async def test_a_bank_in_sqlite(tmp_path, freshness):
    await bank(f"sqlite:///{tmp_path / 'bank.db'}", "sqlite", freshness)


@in_loop
async def test_a_bank_in_postgresql(postgres):
    url = postgres.fresh_database()
    await bank(url, "postgresql", "strict")
    postgres.drop_database(url)
