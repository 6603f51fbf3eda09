"""How statements are to be read, and a record of how they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from everfresh.engine.fills import HIT, Answer
from everfresh.engine.places import Place
from everfresh.engine.request import Request
from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Entry
from everfresh.settings import check_seconds

__all__ = ["APART", "OPTION", "Asked", "Described", "Questions", "Reading", "asked", "gathering"]

APART = "its rows are kept one by one"

OPTION = "everfresh"
"""The execution option that holds a `Reading`, True, False or None."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Say how a statement, or what reads a model, is to be read.

    ``enabled``: from memory where that is proven; None leaves it to the wider rule. ``max_age``:
    seconds that a kept answer may be old, None for any age. ``tags``: names under which its answers
    can be dropped. ``name`` keeps an answer apart from that of the same statement under other
    names. ``only_kept``: raise `NotKeptError` instead of asking the database; ``anew``: ask it
    whatever is kept. ``place`` is where the rows lie, if not in the cache itself. ``seen`` is
    called with the answer. ``apart``: whoever asks keeps the rows, not as one answer.
    ``describe``: raise `Described` instead of answering.
    """

    enabled: bool | None = True
    max_age: float | None = None
    tags: tuple[str, ...] = ()
    name: str = ""
    only_kept: bool = False
    anew: bool = False
    place: Place | None = None
    seen: Callable[[Answer], None] | None = None
    apart: bool = False
    describe: bool = False

    def __post_init__(self) -> None:
        check_seconds("max_age", self.max_age)
        tags: object = self.tags
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in self.tags):
            raise ConfigurationError(f"tags are a tuple of names, not {tags!r}")

    def within(self, wider: Reading | None) -> Reading:
        """Return this reading with what it leaves open taken from a wider rule.

        >>> found = Reading(None, tags=("a",)).within(Reading(False, max_age=5.0, tags=("b",)))
        >>> found.enabled, found.max_age, found.tags
        (False, 5.0, ('b', 'a'))
        """
        if wider is None:
            return self
        ages = [age for age in (self.max_age, wider.max_age) if age is not None]
        return replace(
            self,
            enabled=wider.enabled if self.enabled is None else self.enabled,
            max_age=min(ages, default=None),
            tags=tuple(dict.fromkeys((*wider.tags, *self.tags))),
        )


Again = Callable[[dict[str, object]], Request]


class Described(Exception):  # noqa: N818 - carries an answer; never leaves everfresh
    """Carry what would be asked, or why nothing kept may answer, out of SQLAlchemy."""

    def __init__(self, found: Request | str, again: Again | None = None) -> None:
        super().__init__(found if isinstance(found, str) else found.label)
        self.found = found
        self.again = again  # makes the request of the same statement with other parameters


@dataclass(frozen=True, slots=True)
class Asked:
    """Tell of one statement that was asked: ``seconds`` are those it took of the database."""

    text: str
    parameters: object
    status: str
    reason: str
    seconds: float = 0.0
    entry: Entry | None = None


class Questions(list[Asked]):
    """Hold what was asked, in order."""

    @property
    def hits(self) -> int:
        """How many were answered from memory."""
        return sum(one.status == "hit" for one in self)

    def hit(self, entry: Entry) -> None:
        """Note an answer from memory."""
        detail = entry.request.detail if isinstance(entry.request, Request) else None
        self.append(Asked(entry.label, detail, "hit", HIT, 0.0, entry))

    def repeated(self, least: int = 5) -> dict[str, int]:
        """Return the statements that reached the database ``least`` times or more, with how often.

        The same statement with ever other parameters is what lazy loads in a loop make: load the
        relationship with its parents, by ``selectinload``, or ask for all by ``get_many``.
        """
        counts = Counter(one.text for one in self if one.status != "hit")
        return {text: count for text, count in counts.most_common() if count >= least}


_asked: ContextVar[Questions | None] = ContextVar("everfresh_asked", default=None)
gathering = _asked.get


@contextmanager
def asked() -> Iterator[Questions]:
    """Gather what watched sessions and connections are asked in this context."""
    gathered = Questions()
    token = _asked.set(gathered)
    try:
        yield gathered
    finally:
        _asked.reset(token)
