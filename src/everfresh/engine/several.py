"""Keep the answers to several questions that one statement answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, cast

from everfresh.engine.fills import Fills
from everfresh.engine.request import Request
from everfresh.kernel.entry import Entry
from everfresh.kernel.ledger import Fill
from everfresh.leases.local import LocalLease

__all__ = ["Several"]


class Several:
    """Register the fills of several requests before a statement reads, and end them after it.

    Each is voided by the changes that touch it alone. What another is computing already, or is
    kept, is left to them.
    """

    def __init__(self, fills: Fills, requests: Sequence[Request]) -> None:
        self._fills = fills
        self._mine: list[tuple[Request, Fill]] = []
        self._requests = requests

    def __enter__(self) -> Self:
        try:
            for request in self._requests:
                request.alone = request.anew = True
                claim = self._fills.board.claim(request, frozenset())
                if isinstance(claim, Fill):
                    self._mine.append((request, claim))
        except BaseException:
            self._abandon()
            raise
        return self

    def publish(self, values: Mapping[str, object], cost: float) -> list[Entry]:
        """Keep these values by key, each unless it was voided; return the entries that are kept.

        ``cost`` is in seconds, of the statement that answered all.
        """
        kept = []
        share = cost / max(len(values), 1)
        while self._mine:
            request, fill = self._mine[-1]
            entry = self._fills.finish(request, fill, values[request.key], share)
            self._mine.pop()
            if entry is not None:
                kept.append(entry)
        return kept

    def _abandon(self) -> None:
        while self._mine:
            request, fill = self._mine.pop()
            self._fills.board.abandon(fill)
            cast("LocalLease", fill.lease).release()
            request.fill = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._abandon()
