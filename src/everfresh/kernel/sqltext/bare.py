"""A statement without what could hide a keyword: comments and strings."""

from __future__ import annotations

import re

__all__ = ["WORD", "bare"]

WORD = re.compile(r"[\s(]*([A-Za-z]+)")
"""The first word of a bare statement."""

# Comments, strings and quoted names, each as a whole, so that no keyword is found inside them.
_HIDDEN = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"|(?P<escape>\b[eE]'(?:[^'\\]|\\.|'')*')"
    r"|(?P<string>'(?:[^']|'')*')"
    r"|(?P<dollar>\$(?P<tag>[A-Za-z_]?\w*)\$.*?\$(?P=tag)\$)"
    r'|(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`)',
    re.DOTALL,
)


def bare(statement: str) -> tuple[str, bool]:
    """Blank out comments and strings; return the rest, and whether it holds quoted names.

    >>> bare("SELECT 'a;b' -- all")
    ("SELECT ''  ", False)
    """
    if not re.search(r"['\"`$]|--|/\*", statement):
        return statement, False
    quoted = False

    def blank(match: re.Match[str]) -> str:
        nonlocal quoted
        if match["name"]:
            quoted = True
            return match[0]
        return "''" if match["string"] or match["escape"] or match["dollar"] else " "

    return _HIDDEN.sub(blank, statement), quoted
