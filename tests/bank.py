"""A bank whose balances sum to zero, written to by everybody and read through caches.

Every transfer is one transaction that moves money between two accounts, writes the new version of
both (one more than before), and notes what it did in a log of its own. The history of an account is
therefore known: version → balance. A reader's answer is right if every balance it shows existed,
the accounts it shows together existed together, and versions never go back for one reader.
"""

import random
import time
from dataclasses import dataclass, field

ACCOUNTS = 12
SUM = "SELECT sum(balance) AS total, count(*) AS n FROM account"
ONE = "SELECT id, version, balance FROM account WHERE id = :id"
GROUP = "SELECT id, version, balance FROM account WHERE branch = :branch ORDER BY id"
BRANCHES = 3

CREATE = (
    "CREATE TABLE account (id int PRIMARY KEY, branch int NOT NULL, version int NOT NULL,"
    " balance int NOT NULL)",
    "CREATE TABLE history (account int, version int, balance int, PRIMARY KEY (account, version))",
    f"INSERT INTO account SELECT g, g % {BRANCHES}, 0, 0 FROM generate_series(1, {ACCOUNTS}) g",
    "INSERT INTO history SELECT id, 0, 0 FROM account",
)

# both accounts at once, in one statement that locks them in order of their numbers
TRANSFER = """
WITH locked AS (SELECT id FROM account WHERE id IN ({a}, {b}) ORDER BY id FOR UPDATE),
moved AS (UPDATE account SET version = version + 1,
            balance = balance + CASE WHEN id = {a} THEN -{amount} ELSE {amount} END
           WHERE id IN (SELECT id FROM locked) RETURNING id, version, balance)
INSERT INTO history SELECT id, version, balance FROM moved"""

# when it was committed, which may be long after the statement: the server must track_commit_timestamp
HISTORY = """SELECT account, version, balance,
  coalesce(extract(epoch FROM pg_xact_commit_timestamp(xmin)), 0)::float8 FROM history"""


def transfer(choose: random.Random) -> str:
    """Return a transfer between two accounts, as SQL."""
    a, b = choose.sample(range(1, ACCOUNTS + 1), 2)
    return TRANSFER.format(a=a, b=b, amount=choose.randint(1, 100))


@dataclass
class Answer:
    """One answer: who was given it, when he asked and when he had it, and what it says."""

    reader: int
    asked: float
    had: float
    rows: list
    strict: bool
    status: str = ""


@dataclass
class Verdict:
    """What was looked at, and what was wrong."""

    answers: int = 0
    hits: int = 0
    wrong: list = field(default_factory=list)


def check(answers, history, bound) -> Verdict:
    """Judge answers against the history, in time that grows with their number alone.

    ``history`` holds (account, version, balance, when it was committed). ``bound`` is how late an
    answer that is not strict may be, in seconds.
    """
    known, written = {}, {}
    for account, version, balance, at in history:
        known[account, version] = balance
        written[account, version] = at
    verdict, newest = Verdict(), {}
    for answer in answers:
        verdict.answers += 1
        verdict.hits += answer.status == "hit"
        if answer.rows and len(answer.rows[0]) == 2:
            if answer.rows[0] != [0, ACCOUNTS]:
                verdict.wrong.append(("the sum is not zero", answer))
            continue
        for account, version, balance in answer.rows:
            if known.get((account, version)) != balance:
                verdict.wrong.append(("it never existed", answer))
            if version < newest.get((answer.reader, account), 0):
                verdict.wrong.append(("an older version than before", answer))
            newest[answer.reader, account] = max(version, newest.get((answer.reader, account), 0))
            followed = written.get((account, version + 1))
            # the clock is read a moment before the commit can be seen
            slack = _COMMIT if answer.strict else bound + _COMMIT
            if followed is not None and answer.asked > followed + slack:
                verdict.wrong.append((f"{answer.asked - followed:.3f} s too old", answer))
    return verdict


_COMMIT = 0.25  # seconds from a commit's time stamp to its being seen, on a busy machine


def now() -> float:
    return time.time()
