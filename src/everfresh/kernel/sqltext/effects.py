"""Tell the effect of any statement from its text, cheaply: by its first words, not by parsing it.

A name that is not found where it is expected makes the effect unbounded (``tables=None``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from everfresh.kernel.plan import Effect, EffectKind
from everfresh.kernel.sqltext.bare import WORD, bare
from everfresh.kernel.sqltext.functions import VOLATILE, known_functions
from everfresh.kernel.sqltext.grammar import fold

__all__ = ["classify"]

_ANYTHING: Final = Effect("other", tables=None)
_DEFINITION: Final = Effect("ddl", tables=None)  # a trigger's body holds statements too
_DEFINES = re.compile(r"\s*(?:CREATE|ALTER|DROP)\b", re.I)

_NAME = r"(?:\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|[^\W\d][\w$]*)"
_TABLE = rf"(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})"
_CALL = re.compile(rf"(\.\s*)?({_NAME})\s*\(")

_INSERT = re.compile(rf"INSERT\s+(?:OR\s+(?P<or>\w+)\s+)?INTO\s+{_TABLE}", re.I)
_REPLACE = re.compile(rf"REPLACE\s+INTO\s+{_TABLE}", re.I)
_UPDATE = re.compile(rf"UPDATE\s+(?:OR\s+(?P<or>\w+)\s+)?(?:ONLY\s+)?\(?\s*{_TABLE}", re.I)
_DELETE = re.compile(rf"DELETE\s+FROM\s+(?:ONLY\s+)?\(?\s*{_TABLE}", re.I)
_MERGE = re.compile(rf"MERGE\s+INTO\s+(?:ONLY\s+)?{_TABLE}", re.I)
_COPY = re.compile(rf"COPY\s+{_TABLE}\s*(?:\([^)]*\)\s*)?FROM\b", re.I)
_COPY_OUT = re.compile(rf"COPY\s+(?:\(|{_TABLE}\s*(?:\([^)]*\)\s*)?TO\b)", re.I)
_REFRESH = re.compile(rf"REFRESH\s+MATERIALIZED\s+VIEW\s+(?:CONCURRENTLY\s+)?{_TABLE}", re.I)
_TRUNCATE = re.compile(r"TRUNCATE\s+(?:TABLE\s+)?(?P<list>.*)", re.I | re.S)
_TRUNCATED = re.compile(rf"\s*(?:ONLY\s+)?{_TABLE}(?:\s*\*)?\s*", re.I)
_TEMPORARY = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\b", re.I
)
_CREATE_TABLE = re.compile(
    r"CREATE\s+(?:(?:LOCAL|GLOBAL)\s+)?(?:TEMP(?:ORARY)?\s+|UNLOGGED\s+)?TABLE\s+"
    rf"(?:IF\s+NOT\s+EXISTS\s+)?{_TABLE}",
    re.I,
)
_CHANGE_TABLE = re.compile(
    rf"(?:ALTER|DROP)\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_TABLE}(?P<rest>.*)", re.I | re.S
)
_INDEX = re.compile(r"(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\b", re.I)
_WRITES = re.compile(
    r"\b(?:INSERT\s+INTO|INSERT\s+OR|DELETE\s+FROM|MERGE\s+INTO|UPDATE"
    r"|(?<!OR\s)REPLACE\s+INTO)\b",
    re.I,
)
_NO_WRITE = re.compile(r"\b(?:DO|FOR|ON|KEY|THEN)\s+UPDATE\b", re.I)
_INTO = re.compile(r"\bINTO\b", re.I)


def classify(statement: str, dialect: str) -> Effect:
    """Return what a statement does, from the text the driver gets. Never raises.

    >>> classify("INSERT INTO flights VALUES (?, ?)", "sqlite").tables
    ((None, 'flights'),)
    >>> classify("/* all */ SELECT 1", "sqlite").kind
    'read'
    """
    text, names = bare(statement)
    several = text.find(";")
    if several >= 0:
        if text[several:].strip("; \t\r\n\f"):
            return _DEFINITION if _DEFINES.match(text) else _ANYTHING
        text = text[:several]
    match = WORD.match(text)
    if match is None:
        return Effect("read") if not text.strip() else _ANYTHING
    start = match.start(1)
    answer = _ANSWERS.get(match[1].upper())
    if answer is None:
        return _ANYTHING
    if isinstance(answer, Effect):
        return answer
    return answer(_Text(text[start:], dialect, names))


class _Text:
    """Hold a statement without comments and strings, from its first keyword on."""

    def __init__(self, text: str, dialect: str, quoted: bool) -> None:
        self.text = text
        self.dialect = dialect
        # keywords inside quoted names are no keywords
        self.words = re.sub(r'"(?:[^"]|"")*"|`(?:[^`]|``)*`', '""', text) if quoted else text

    def name(self, match: re.Match[str]) -> tuple[str | None, str]:
        """Return the folded name of a table that a pattern found."""
        schema = match["schema"]
        return (self._fold(schema) if schema else None, self._fold(match["table"]))

    def _fold(self, name: str) -> str:
        quote = name[0]
        if quote == "[":
            return fold(name[1:-1], self.dialect, quoted=True)
        if quote in '"`':
            return fold(name[1:-1].replace(quote * 2, quote), self.dialect, quoted=True)
        return fold(name, self.dialect)

    def writes(self) -> int:
        """Return how many clauses seem to write."""
        return len(_WRITES.findall(_NO_WRITE.sub(" ", self.words)))

    def calls(self) -> Iterator[str]:
        """Yield the names called that are neither built in nor part of the grammar."""
        known = known_functions(self.dialect)
        for dot, name in _CALL.findall(self.text):
            folded = self._fold(name)
            word = folded.upper()
            fixed = folded in known or word in _GRAMMAR or word in _HARMLESS
            if dot or not (fixed or folded.startswith("pg_")):
                yield folded


_GRAMMAR_WORDS = """
    COPY IN VALUES AS AND OR NOT ON USING OVER FILTER EXISTS ANY ALL SOME SELECT FROM WHERE CAST
    CASE WHEN THEN ELSE BY BETWEEN LIKE IS HAVING DISTINCT UNION EXCEPT INTERSECT JOIN INTO SET
    GROUP ORDER ROWS RANGE GROUPS WITHIN WINDOW LIMIT OFFSET RETURNING EXTRACT TRIM OVERLAY
    POSITION SUBSTRING ARRAY ROW ROLLUP CUBE SETS GROUPING LATERAL WITH MATERIALIZED RECURSIVE
    CONFLICT DO KEY DEFAULT TABLE ILIKE GLOB REGEXP MATCH COLLATE NUMERIC DECIMAL VARCHAR CHAR
    CHARACTER VARYING BIT TIMESTAMP TIME TIMESTAMPTZ INTERVAL FLOAT BPCHAR JSON_TABLE OPERATOR
    ONLY FETCH NEXT FIRST
"""
_GRAMMAR: Final = frozenset(_GRAMMAR_WORDS.split())
_HARMLESS: Final = frozenset(name.upper() for name in VOLATILE) - {
    "SETVAL",
    "LOAD_EXTENSION",
    "SET_CONFIG",
}


def _select(text: _Text) -> Effect:
    if text.dialect == "sqlite":
        return Effect("read")
    if _INTO.search(text.words):
        temporary = re.search(r"\bINTO\s+TEMP", text.words, re.I) is not None
        return Effect("ddl", tables=None, temporary=temporary)
    return _ANYTHING if any(True for _ in text.calls()) else Effect("read")


def _with(text: _Text) -> Effect:
    if not text.writes():
        return _select(text)
    found = [
        match
        for pattern in (_INSERT, _REPLACE, _UPDATE, _DELETE, _MERGE)
        for match in re.finditer(r"\b(?<!OR\s)" + pattern.pattern, text.text, re.I)
    ]
    if len(found) != text.writes() or _no_bound(text):
        return Effect("write", tables=None, replaces=_replacing(text))
    names = dict.fromkeys(text.name(match) for match in found)
    return Effect("write", tuple(names), replaces=_replacing(text))


def _no_bound(text: _Text) -> bool:
    """Whether the statement calls what might write other tables."""
    return text.dialect != "sqlite" and any(True for _ in text.calls())


def _replacing(text: _Text) -> bool:
    return bool(re.search(r"\bOR\s+REPLACE\b|\bREPLACE\s+INTO\b", text.words, re.I))


def _write(*patterns: re.Pattern[str]) -> Callable[[_Text], Effect]:
    def answer(text: _Text) -> Effect:
        replaces = _replacing(text)
        for pattern in patterns:
            match = pattern.match(text.text)
            if match is not None and text.writes() <= 1 and not _no_bound(_after(text, match)):
                return Effect("write", (text.name(match),), replaces=replaces)
        return Effect("write", tables=None, replaces=replaces)

    return answer


def _after(text: _Text, match: re.Match[str]) -> _Text:
    """Return what follows the table's name, and the list of columns that may come with it."""
    rest = re.sub(r"^\s*\([^()]*\)", " ", text.text[match.end() :])
    return _Text(rest, text.dialect, quoted=True)


def _copy(text: _Text) -> Effect:
    match = _COPY.match(text.text)
    if match is not None:
        return Effect("write", (text.name(match),))
    if _COPY_OUT.match(text.text) and not text.writes():
        return Effect("read") if not _no_bound(text) else _ANYTHING
    return Effect("write", tables=None)


def _truncate(text: _Text) -> Effect:
    match = _TRUNCATE.match(text.text)
    if match is None or re.search(r"\bCASCADE\b", text.words, re.I):
        return Effect("write", tables=None)
    listed = re.sub(
        r"\b(RESTART|CONTINUE)\s+IDENTITY\b|\bRESTRICT\b", "", match["list"], flags=re.I
    )
    found = [_TRUNCATED.fullmatch(part) for part in listed.split(",")]
    names = [text.name(one) for one in found if one is not None]
    return Effect("write", tuple(names) if len(names) == len(found) else None)


def _create(text: _Text) -> Effect:
    temporary = bool(_TEMPORARY.match(text.text))
    if _INDEX.match(text.text):
        return Effect("ddl")
    match = _CREATE_TABLE.match(text.text)
    if match is None:
        return Effect("ddl", tables=None, temporary=temporary)
    name = text.name(match)
    return Effect("ddl", (name,), temporary=temporary or name[0] in ("temp", "pg_temp"))


def _change_definition(text: _Text) -> Effect:
    if _INDEX.match(text.text):
        return Effect("ddl")
    match = _CHANGE_TABLE.match(text.text)
    if match is None or re.search(r"\bRENAME\b|\bCASCADE\b|,", match["rest"], re.I):
        return Effect("ddl", tables=None)
    return Effect("ddl", (text.name(match),))


def _explain(text: _Text) -> Effect:
    match = re.match(r"EXPLAIN\s+(?:\(([^)]*)\)|((?:(?:ANALYZE|VERBOSE)\s+)*))", text.words, re.I)
    options = (match[1] or match[2] or "") if match else ""
    if text.dialect == "sqlite" or not re.search(r"\bANALY[ZS]E\b", options, re.I):
        return Effect("read") if "ANALY" not in options.upper() else _ANYTHING
    return _ANYTHING


def _pragma(text: _Text) -> Effect:
    return Effect("setting" if re.search(r"[=(]", text.text) else "read")


def _starts(kind: EffectKind, second: dict[str, Effect]) -> Callable[[_Text], Effect]:
    """Return the effect that the words after the first one decide, else one of this kind."""

    def answer(text: _Text) -> Effect:
        rest = " ".join(text.words.upper().split()[1:])
        for words, effect in second.items():
            if re.match(rf"(?:(?:TRANSACTION|WORK) )?{words}\b", rest):
                return effect
        return Effect(kind)

    return answer


_SAVEPOINT: Final = Effect("savepoint")
_SETTING: Final = Effect("setting")

_ANSWERS: Final[dict[str, Effect | Callable[[_Text], Effect]]] = {
    "SELECT": _select,
    "VALUES": _select,
    "TABLE": _select,
    "DECLARE": _select,
    "WITH": _with,
    "INSERT": _write(_INSERT),
    "REPLACE": _write(_REPLACE),
    "UPDATE": _write(_UPDATE),
    "DELETE": _write(_DELETE),
    "MERGE": _write(_MERGE),
    "COPY": _copy,
    "TRUNCATE": _truncate,
    "REFRESH": _write(_REFRESH),
    "CREATE": _create,
    "ALTER": _change_definition,
    "DROP": _change_definition,
    **dict.fromkeys(
        ("GRANT", "REVOKE", "COMMENT", "SECURITY", "IMPORT", "REASSIGN"), Effect("ddl", tables=None)
    ),
    "BEGIN": Effect("begin"),
    "START": Effect("begin"),
    "COMMIT": _starts("commit", {"PREPARED": Effect("commit", tables=None)}),
    "END": Effect("commit"),
    "ROLLBACK": _starts("rollback", {"TO": _SAVEPOINT}),
    "ABORT": Effect("rollback"),
    "SAVEPOINT": _SAVEPOINT,
    "RELEASE": _SAVEPOINT,
    "PREPARE": _starts("setting", {"TRANSACTION": Effect("prepare")}),
    "SET": _SETTING,
    "RESET": _SETTING,
    "DISCARD": _SETTING,
    "DEALLOCATE": _SETTING,
    "LISTEN": _SETTING,
    "UNLISTEN": _SETTING,
    "NOTIFY": _SETTING,
    "PRAGMA": _pragma,
    "SHOW": Effect("read"),
    "FETCH": Effect("read"),
    "MOVE": Effect("read"),
    "CLOSE": Effect("read"),
    "LOCK": Effect("read"),
    "ANALYZE": Effect("other"),
    "REINDEX": Effect("other"),
    "CHECKPOINT": Effect("other"),
    "CLUSTER": Effect("other"),
    "EXPLAIN": _explain,
}
