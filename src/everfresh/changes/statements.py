"""What a statement does to the transaction it runs in, remembered by its text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from everfresh.kernel.plan import Effect

__all__ = ["Statement", "Statements", "Verb"]

Verb = Literal[
    "begin",
    "commit",
    "rollback",
    "savepoint",
    "release",
    "rollback to",
    "prepare",
    "commit prepared",
    "rollback prepared",
    "attach",
]

_NAME = r"(\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|'(?:[^']|'')*'|\w+)"
_WORK = r"(?:\s+(?:TRANSACTION|WORK))?"
_VERBS: tuple[tuple[str, Verb], ...] = (
    (rf"COMMIT\s+PREPARED\s+{_NAME}", "commit prepared"),
    (rf"ROLLBACK\s+PREPARED\s+{_NAME}", "rollback prepared"),
    (rf"PREPARE\s+TRANSACTION\s+{_NAME}", "prepare"),
    (rf"ROLLBACK{_WORK}\s+TO(?:\s+SAVEPOINT)?\s+{_NAME}", "rollback to"),
    (rf"RELEASE(?:\s+SAVEPOINT)?\s+{_NAME}", "release"),
    (rf"SAVEPOINT\s+{_NAME}", "savepoint"),
    ("BEGIN", "begin"),
    (r"START\s+TRANSACTION", "begin"),
    ("COMMIT|END", "commit"),
    ("ROLLBACK|ABORT", "rollback"),
    ("ATTACH|DETACH", "attach"),
)
_CONTROL = [(re.compile(pattern + r"(?=$|[\s;])", re.I), verb) for pattern, verb in _VERBS]
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.S)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$", re.S)
_QUERY = re.compile(r"[\s(]*(?:SELECT|VALUES|WITH)\b", re.I)
_WRITING = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE|INTO)\b", re.I)
_CALL = re.compile(r"([A-Za-z_\x80-\U0010ffff][\w$]*)\"?\s*\(")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """Hold what the text of one statement tells; hashable by identity.

    ``verb`` and ``name`` are set for statements that control transactions. ``several`` says that
    the text may hold more than one statement, ``row_write`` that it starts with INSERT, UPDATE,
    DELETE or REPLACE, before which some drivers begin a transaction. ``selects`` is set for a
    query that calls what is not known to be harmless, ``calls`` are its names of functions.
    """

    text: str
    effect: Effect
    verb: Verb | None = None
    name: str = ""
    several: bool = False
    truncates: bool = False
    row_write: bool = False
    selects: bool = False
    calls: frozenset[str] = frozenset()

    @property
    def idle(self) -> bool:
        """Whether the statement changes neither data nor schema."""
        effect = self.effect
        quiet = effect.kind in ("read", "setting", "other") and effect.tables is not None
        return quiet and not self.several and self.verb is None

    @property
    def changes_session(self) -> bool:
        """Whether the statement may change settings of its session, or how transactions begin."""
        if self.selects:
            return "set_config" in self.calls
        quiet = self.effect.kind in ("read", "write", "ddl", "savepoint")
        ends = self.verb is not None and self.verb != "begin"
        return self.several or not (quiet or ends)

    @property
    def alters(self) -> bool:
        """Whether the statement may change the schema."""
        effect = self.effect
        unknown = effect.kind == "other" and effect.tables is None and not self.selects
        return unknown or effect.kind == "ddl"

    @property
    def voids(self) -> bool:
        """Whether the statement may change what any query means, and not by its rows.

        A new table may take the name of another one; an index changes nothing, a temporary
        table nothing for others.
        """
        return self.alters and not self.effect.temporary and self.effect.tables != ()


class Statements:
    """Map texts to statements; bounded, and one dict lookup for a known text."""

    def __init__(self, classify: Callable[[str, str], Effect], dialect: str, size: int) -> None:
        self._classify = classify
        self._dialect = dialect
        self._size = size
        self._known: dict[str, Statement] = {}
        self.idle: set[str] = set()
        """Texts known to change nothing."""

    def learn(self, text: str) -> Statement:
        """Return the statement of this text, analysing it if it is new."""
        statement = self._known.get(text)
        if statement is None:
            statement = self._analyse(text)
            if len(self._known) >= self._size:
                self._known.clear()  # no order is kept: a hit changes nothing shared
                self.idle.clear()
            self._known[text] = statement
            if statement.idle and statement.effect.kind != "setting":
                self.idle.add(text)
        return statement

    def _analyse(self, text: str) -> Statement:
        bare = _COMMENT.sub(" ", text).strip().rstrip("; \t\n")
        outside = _QUOTED.sub("''", bare)
        several = ";" in outside
        for pattern, verb in _CONTROL:
            if match := pattern.match(bare):
                name = match[1] if match.groups() else ""
                effect = Effect("other", ())
                return Statement(text, effect, verb, _bare_name(name), several)
        query = bool(_QUERY.match(bare)) and not _WRITING.search(outside)
        effect = self._classify(text, self._dialect)
        return Statement(
            text,
            effect,
            several=several,
            selects=query and not several and effect.kind == "other",
            row_write=bare[:7].upper().startswith(("INSERT", "UPDATE", "DELETE", "REPLACE")),
            truncates=bare[:8].upper() == "TRUNCATE",
            calls=frozenset(name.lower() for name in _CALL.findall(bare)),
        )


def _bare_name(name: str) -> str:
    if name[:1] in ("'", '"'):
        return name[1:-1].replace(name[0] * 2, name[0])
    return name.strip("`[]").lower()
