"""`why` and `why_not`: the history of an answer in words and as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from everfresh.engine.fills import HIT, Answer
from everfresh.engine.functions import Cached
from everfresh.engine.receipts import Receipt, describe_change
from everfresh.engine.request import Request
from everfresh.engine.rows import Rows
from everfresh.errors import ConfigurationError, NotKeptError
from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry, Past

if TYPE_CHECKING:
    from everfresh.engine.cache import Cache

__all__ = ["Explanation", "invalidate", "why", "why_not"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Hold an explanation: `str()` gives text for people, `to_dict()` data for programs."""

    summary: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {"summary": self.summary, **self.facts}

    def __str__(self) -> str:
        lines = [self.summary]
        for name, value in self.facts.items():
            if value is None or value == []:
                continue
            lines.append(f"  {name.replace('_', ' ')}: {_shown(value)}")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} = {_shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def why(cache: Cache, what: Any) -> Explanation:
    """Explain an answer, a receipt, a key, or a call given as (function, arguments…)."""
    receipt = _receipt_of(what)
    key = receipt.key if receipt is not None else _key_of(what)
    entry, past = cache.board.peek(key), cache.board.past(key)
    if receipt is None and entry is not None:
        receipt = cache.fills.receipt(Answer(entry, "hit", HIT))
    if receipt is None and past is None:
        raise NotKeptError(f"no answer with the key {key!r} is kept or remembered")
    facts = _facts(receipt) if receipt is not None else _past_facts(past)
    facts["kept_now"] = entry is not None
    facts["last_outdated_by"] = _outdated(past)
    facts["changed_row"] = None if past is None or past.change is None else _row_of(past.change)
    return Explanation(_summary(receipt, past, entry), facts)


def why_not(cache: Cache, statement: str, parameters: dict[str, object]) -> Explanation:
    """Explain why a statement would not be a hit, with the nearest kept answer."""
    prepared, request = cache.statements.request(statement, parameters)
    refusal = cache.reader.refusal(prepared, parameters)
    facts: dict[str, Any] = {"key": request.key, "sources": [str(s) for s in request.sources]}
    if refusal is not None:
        return Explanation(f"it is never kept: {refusal}", facts)
    if cache.board.peek(request.key) is not None:
        return Explanation("it would be answered from memory", facts)
    past = cache.board.past(request.key)
    facts["last_outdated_by"] = _outdated(past)
    nearest = _nearest(cache.board.entries(), statement, parameters)
    if nearest is not None:
        kept, difference = nearest
        facts |= {"nearest_key": kept.key, "nearest": kept.label, "difference": difference}
    if past is not None:
        return Explanation(f"it was kept and went: {past.reason}", facts)
    return Explanation("it was never asked for", facts)


def invalidate(cache: Cache, what: Any, parameters: dict[str, object]) -> int:
    """Drop what a table's name, a statement, an answer or a key means; None means everything."""
    board = cache.board
    if what is None:
        return _drop(cache, lambda: board.apply([Change(None)]))
    receipt = _receipt_of(what)
    if receipt is None and not isinstance(what, str):
        raise ConfigurationError(
            f"invalidate() takes a table's name, a statement, an answer or a key, "
            f"not {type(what).__name__}"
        )
    if receipt is not None or _is_key(what):
        keys = [what if receipt is None else receipt.key]
    elif " " in what.strip() and cache.reader.schema().table(None, what) is None:
        keys = [cache.statements.request(what, parameters)[1].key]
    else:
        changes = [Change(source.table) for source in cache.reader.whole_tables([what])]
        return _drop(cache, lambda: board.apply(changes))
    return _drop(cache, lambda: board.invalidate(keys), keys)


def _drop(cache: Cache, drop: Callable[[], int], keys: list[str] | None = None) -> int:
    """Drop from memory and from the store, whose answers a reader may just be recalling."""
    count = drop()
    if cache.fills.durable is not None:
        cache.fills.durable.forget(keys)
        drop()
    return count


def _is_key(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def _receipt_of(what: Any) -> Receipt | None:
    if isinstance(what, Receipt):
        return what
    return what.receipt if isinstance(what, Rows) else None


def _key_of(what: Any) -> str:
    if isinstance(what, str):
        return what
    if isinstance(what, tuple) and what and hasattr(what[0], "key"):
        function: Cached[..., Any] = what[0]
        return function.key(*what[1:])
    raise ConfigurationError(
        "why() takes an answer or a receipt, a key, or a tuple of a cached function and its "
        "arguments"
    )


def _facts(receipt: Receipt) -> dict[str, Any]:
    return {
        "status": receipt.status,
        "reason": receipt.reason,
        "asked": " ".join(receipt.label.split()),
        "parameters": _parameters(receipt.entry),
        "key": receipt.key,
        "age_seconds": round(receipt.age, 6),
        "cost_seconds": receipt.cost,
        "bytes": receipt.bytes,
        "sources": list(receipt.sources),
        "parents": list(receipt.parents),
        "mark": receipt.mark,
        "proof": receipt.proof,
    }


def _past_facts(past: Past | None) -> dict[str, Any]:
    assert past is not None  # noqa: S101 - `why` raises before when neither is known
    return {
        "asked": " ".join(past.label.split()),
        "key": past.key,
        "cost_seconds": past.cost,
        "hits": past.hits,
        "fills": past.fills,
    }


def _parameters(entry: Entry | None) -> Any:
    request = entry.request if entry is not None else None
    if not isinstance(request, Request) or not isinstance(request.detail, dict):
        return None
    return {
        k: v if isinstance(v, (int, float, str)) else repr(v) for k, v in request.detail.items()
    }


def _outdated(past: Past | None) -> str | None:
    if past is None:
        return None
    return past.reason if past.change is None else describe_change(past.change)


def _row_of(change: Change) -> dict[str, Any] | None:
    """Return what the change did to the row: {column: "old → new"}."""
    if change.whole_table:
        return None
    old, new = dict(change.old or {}), dict(change.new or {})
    return {
        name: f"{old.get(name)!r} → {new.get(name)!r}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }


def _summary(receipt: Receipt | None, past: Past | None, entry: Entry | None) -> str:
    if receipt is None:
        return f"nothing is kept any more: {past.reason if past else 'unknown'}"
    if entry is None:
        gone = f"; it is no longer kept ({past.reason})" if past is not None else ""
        return f"{receipt.status}: {receipt.reason}{gone}"
    return f"{receipt.status}: {receipt.reason}"


def _nearest(
    entries: list[Entry], statement: str, parameters: dict[str, object]
) -> tuple[Entry, str] | None:
    """Return the kept query most like this one and what differs; equal text wins over all else."""
    best: tuple[float, Entry] | None = None
    for entry in entries:
        if entry.kind != "sql":
            continue
        if entry.label == statement:
            likeness = 2.0 + _alike(entry, parameters)
        else:
            likeness = SequenceMatcher(None, entry.label, statement).quick_ratio()
        if best is None or likeness > best[0]:
            best = (likeness, entry)
    if best is None:
        return None
    return best[1], _difference(best[1], statement, parameters)


def _alike(entry: Entry, parameters: dict[str, object]) -> float:
    kept = _detail(entry)
    same = sum(name in kept and _same(kept[name], value) for name, value in parameters.items())
    return same / (len(parameters) or 1)


def _difference(entry: Entry, statement: str, parameters: dict[str, object]) -> str:
    if entry.label != statement:
        if entry.label.split() == statement.split():
            return "the statement differs in white space only"
        return "the statement differs"
    kept = _detail(entry)
    parts = []
    for name, value in parameters.items():
        if name in kept and not _same(kept[name], value):
            parts.append(f"parameter {name}: kept {_typed(kept[name])}, asked {_typed(value)}")
    return "; ".join(parts) or "the database or its settings differ"


def _detail(entry: Entry) -> dict[str, Any]:
    request = entry.request
    return (
        request.detail if isinstance(request, Request) and isinstance(request.detail, dict) else {}
    )


def _same(kept: object, asked: object) -> bool:
    return type(kept) is type(asked) and kept == asked


def _typed(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
