"""One index of a snapshot: records in the order of their scores, in immutable chunks.

Records of equal scores stand in the order of their keys' hashes, so that one of very many can be
found by bisection; those whose hashes are equal too are told apart by the keys themselves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from everfresh.tables.intervals import Interval
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["NOTHING", "SortedChunks", "build", "rebuild"]

TARGET = 512  # records of a chunk that was just made; it is cut at twice as many
_SMALLEST = 128  # a smaller chunk is joined to the one before
_FEW = 16  # entries that are put into a chunk one by one: it is not sorted again
_STEP = 256  # entries after which a long piece of work may be interrupted

KeyOf: TypeAlias = Callable[[Any], PrimaryKey]
ScoreOf: TypeAlias = Callable[[Any], Score]
Records: TypeAlias = Mapping[PrimaryKey, Any]


class Chunk:
    """Hold some hundred neighbouring records; never changed once it is in a snapshot."""

    __slots__ = ("records", "scores", "ties")

    def __init__(self, scores: list[Score], ties: array[int], records: list[Any]) -> None:
        self.scores = scores
        self.ties = ties
        self.records = records


class SortedChunks:
    """Hold all records of a snapshot in the order of one index; immutable."""

    __slots__ = ("chunks", "firsts")

    def __init__(self, chunks: list[Chunk], firsts: list[Score]) -> None:
        self.chunks = chunks
        self.firsts = firsts  # the lowest score of each

    def between(self, interval: Interval) -> list[Any]:
        """Return the records with scores in the interval, in order."""
        found: list[Any] = []
        for chunk, low, high in self.slices(interval):
            found += chunk.records[low:high]
        return found

    def first(self, interval: Interval) -> Sequence[Any]:
        """Return the first record with a score in the interval, alone or not at all."""
        for chunk, low, _ in self.slices(interval):
            return chunk.records[low : low + 1]
        return ()

    def slices(self, interval: Interval) -> Iterator[tuple[Chunk, int, int]]:
        """Yield the chunks that the interval meets, with the places it begins and ends in each."""
        ge, lt = interval.ge, interval.lt
        firsts, chunks = self.firsts, self.chunks
        # records of the lowest score may begin in the chunk before the first that starts with it
        begin = max(bisect_left(firsts, ge) - 1, 0)
        end = bisect_left(firsts, lt, begin)
        for place in range(begin, end):
            scores = chunks[place].scores
            low = bisect_left(scores, ge) if place == begin else 0
            high = bisect_left(scores, lt, low) if place == end - 1 else len(scores)
            if low < high:
                yield chunks[place], low, high

    def count(self, interval: Interval) -> int:
        """Return how many records have scores in the interval."""
        return sum(high - low for _, low, high in self.slices(interval))

    def chunk_of(self, score: Score, tie: int) -> int:
        """Return the place of the chunk an entry is in, or would be put into."""
        firsts, chunks = self.firsts, self.chunks
        high = bisect_right(firsts, score)
        low = bisect_left(firsts, score, 0, high)
        while low < high:  # chunks that begin with this very score: the tie decides
            middle = (low + high) // 2
            if chunks[middle].ties[0] <= tie:
                low = middle + 1
            else:
                high = middle
        return max(low - 1, 0)


NOTHING = SortedChunks([], [])


def build(
    scores: list[Score], ties: Sequence[int], records: Sequence[Any]
) -> Generator[None, None, SortedChunks]:
    """Return the index of these records, in any order; yield between the steps of the work."""
    chunks: list[Chunk] = []
    yield from _append(chunks, _sorted(scores, ties, records))
    return SortedChunks(chunks, [chunk.scores[0] for chunk in chunks])


def rebuild(
    old: SortedChunks, gone: Records, new: Records, score_of: ScoreOf, key_of: KeyOf
) -> Generator[None, None, SortedChunks]:
    """Return the index without some records and with others; yield between the steps of the work.

    Chunks that no change falls into are shared with the old one. The work is in proportion to the
    changes, but for the list of chunks, which is copied.
    """
    taken = yield from _by_chunk(old, gone, score_of)
    put = yield from _by_chunk(old, new, score_of)
    places = sorted(taken.keys() | put.keys())
    if len(places) < _FEW:
        return _spliced(old, places, taken, put, key_of)
    chunks: list[Chunk] = []
    at = 0
    for place in places:
        chunks += old.chunks[at:place]
        made = _changed(old.chunks[place], taken.get(place), put.get(place), key_of)
        yield
        yield from _append(chunks, made)
        at = place + 1
    chunks += old.chunks[at:]
    return SortedChunks(chunks, [chunk.scores[0] for chunk in chunks])


def _spliced(
    old: SortedChunks,
    places: Sequence[int],
    taken: Mapping[int, Chunk],
    put: Mapping[int, Chunk],
    key_of: KeyOf,
) -> SortedChunks:
    """Return the index with a few chunks changed, and lists that were copied once."""
    chunks, firsts = old.chunks.copy(), old.firsts.copy()
    for place in reversed(places):
        made: list[Chunk] = []
        low = place
        if place and place - 1 not in places and len(chunks[place].records) < _SMALLEST:
            low = place - 1
            made.append(chunks[low])  # what is made may be joined to it
        for _ in _append(
            made, _changed(old.chunks[place], taken.get(place), put.get(place), key_of)
        ):
            pass
        chunks[low : place + 1] = made
        firsts[low : place + 1] = [chunk.scores[0] for chunk in made]
    return SortedChunks(chunks, firsts)


def _by_chunk(
    old: SortedChunks, records: Records, score_of: ScoreOf
) -> Generator[None, None, dict[int, Chunk]]:
    """Return records by the place of the chunk they are in, or go into."""
    chunk_of = old.chunk_of
    found: dict[int, Chunk] = {}
    for count, (key, record) in enumerate(records.items()):
        score, tie = score_of(record), hash(key)
        place = chunk_of(score, tie)
        part = found.get(place)
        if part is None:
            part = found[place] = Chunk([], array("q"), [])
        part.scores.append(score)
        part.ties.append(tie)
        part.records.append(record)
        if count % _STEP == _STEP - 1:
            yield
    return found


def _changed(base: Chunk, gone: Chunk | None, new: Chunk | None, key_of: KeyOf) -> Chunk:
    """Return a chunk with these records taken out and put in, of any size."""
    scores, ties, records = _without(base, gone, key_of)
    if new is None:
        return Chunk(scores, ties, records)
    if len(new.records) >= _FEW:
        return _sorted(scores + new.scores, ties + new.ties, records + new.records)
    for score, tie, record in zip(new.scores, new.ties, new.records, strict=True):
        place = _place(scores, ties, score, tie)
        scores.insert(place, score)
        ties.insert(place, tie)
        records.insert(place, record)
    return Chunk(scores, ties, records)


def _without(
    base: Chunk, gone: Chunk | None, key_of: KeyOf
) -> tuple[list[Score], array[int], list[Any]]:
    """Return copies of a chunk's lists with these records taken out."""
    if gone is None:
        return base.scores.copy(), base.ties[:], base.records.copy()
    if len(gone.records) == len(base.records):
        return [], array("q"), []
    places = set(map(partial(_find, base, key_of), gone.scores, gone.ties, gone.records))
    if len(places) < _FEW:
        scores, ties, records = base.scores.copy(), base.ties[:], base.records.copy()
        for place in sorted(places, reverse=True):
            del scores[place], ties[place], records[place]
        return scores, ties, records
    kept = [place for place in range(len(base.records)) if place not in places]
    return (
        [base.scores[place] for place in kept],
        array("q", [base.ties[place] for place in kept]),
        [base.records[place] for place in kept],
    )


def _sorted(scores: list[Score], ties: Sequence[int], records: Sequence[Any]) -> Chunk:
    order = list(range(len(scores)))
    order.sort(key=ties.__getitem__)  # stable: two plain sorts cost less than one of pairs
    order.sort(key=scores.__getitem__)
    return Chunk(
        [scores[place] for place in order],
        array("q", [ties[place] for place in order]),
        [records[place] for place in order],
    )


def _place(scores: list[Score], ties: array[int], score: Score, tie: int) -> int:
    high = bisect_right(scores, score)
    return bisect_left(ties, tie, bisect_left(scores, score, 0, high), high)


def _find(base: Chunk, key_of: KeyOf, score: Score, tie: int, record: Any) -> int:
    """Return where a record is in its chunk."""
    key, place = key_of(record), _place(base.scores, base.ties, score, tie)
    while base.records[place] is not record and key_of(base.records[place]) != key:
        place += 1
    return place


def _append(chunks: list[Chunk], made: Chunk) -> Generator[None, None, None]:
    """Put a chunk of any size at the end of a list, cut or joined to its usual size."""
    size = len(made.records)
    if not size:
        return
    if chunks and size < _SMALLEST and len(chunks[-1].records) + size <= 2 * TARGET:
        last = chunks.pop()
        made = Chunk(last.scores + made.scores, last.ties + made.ties, last.records + made.records)
        size = len(made.records)
    parts = 1 if size <= 2 * TARGET else -(-size // TARGET)
    for part in range(parts):
        low, high = size * part // parts, size * (part + 1) // parts
        chunks.append(Chunk(made.scores[low:high], made.ties[low:high], made.records[low:high]))
        yield
