"""Whether a statement of whatever kind only asks."""

from __future__ import annotations

import re
from typing import Final

from everfresh.kernel.sqltext.bare import WORD, bare
from everfresh.kernel.sqltext.effects import classify

__all__ = ["only_reads"]

_QUERIES: Final = frozenset({"SELECT", "VALUES", "WITH", "TABLE", "SHOW"})
_PRAGMA = re.compile(
    r"[\s(]*PRAGMA\s+(?:[\w\"`\[\]]+\s*\.\s*)?(?P<name>\w+)\s*(?P<sign>[=(]?)", re.I
)
_ANALYSED = re.compile(
    r"[\s(]*EXPLAIN\s+(?:\((?=[^)]*\bANALY[ZS]E\b)[^)]*\)|(?:VERBOSE\s+)*ANALY[ZS]E\b(?:\s+VERBOSE\b)*)",
    re.I,
)
_ASKED = """
    table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list
    foreign_key_check integrity_check quick_check database_list function_list
"""
_ASKING: Final = frozenset(_ASKED.split())
"""PRAGMAs whose argument says what is asked about, and not what is set."""
_ACTING: Final = frozenset(
    {"optimize", "wal_checkpoint", "incremental_vacuum", "shrink_memory"},
)
"""PRAGMAs that act although nothing is set."""


def only_reads(statement: str, dialect: str) -> bool:
    """Whether a statement can only be a question, well formed or not. Never raises.

    >>> only_reads("PRAGMA table_info(flights)", "sqlite"), only_reads("VACUUM", "sqlite")
    (True, False)
    """
    text, _ = bare(statement)
    word = WORD.match(text)
    if word is None:
        return True  # nothing that could run
    first = word[1].upper()
    if first == "PRAGMA":
        pragma = _PRAGMA.match(text)
        name = pragma["name"].lower() if pragma is not None else ""
        if pragma is None or pragma["sign"]:
            return name in _ASKING and pragma is not None and pragma["sign"] == "("
        return name not in _ACTING
    effect = classify(statement, dialect)
    if first == "EXPLAIN":
        analysed = _ANALYSED.match(text) if dialect == "postgresql" else None
        return analysed is None or only_reads(text[analysed.end() :], dialect)
    return first in _QUERIES and effect.kind in ("read", "other")
