"""`cache.cached`: functions whose results are kept by their arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from types import CodeType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from everfresh.engine.cutoff import recalled, unchanged, unchanged_async
from everfresh.engine.fills import HIT, Answer, Fills
from everfresh.engine.lineage import current
from everfresh.engine.reader import Reader
from everfresh.engine.receipts import Receipt, Status
from everfresh.engine.request import Request
from everfresh.errors import ConfigurationError, NotKeptError, UnkeyableError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import freshness_of
from everfresh.kernel.keys import PLAIN, canonical, digest
from everfresh.kernel.plan import Source
from everfresh.settings import check_seconds

__all__ = ["Cached", "FunctionOptions", "wrap"]

P = ParamSpec("P")
T = TypeVar("T", covariant=True)

_CONSTANT = PLAIN | {float, complex, type(...)}
_closures = count(1)


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """Say how the results of one function are kept; see `Cache.cached`."""

    depends_on: str | list[str] | tuple[str, ...] = ()
    ttl: float | None = None
    keep_errors: float | None = None
    copy: bool = False
    freshness: object = None
    stale_while_revalidate: float | None = None
    early_refresh: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttl", "keep_errors", "stale_while_revalidate", "early_refresh"):
            check_seconds(name, getattr(self, name))
        if self.freshness is not None:
            freshness_of(self.freshness)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names in ``depends_on``."""
        return (self.depends_on,) if isinstance(self.depends_on, str) else tuple(self.depends_on)


class Cached(Protocol[P, T]):
    """A decorated function: called as before, with its cache at hand."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what is kept for these arguments, or call the function."""

    def receipt(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Return the receipt of the last answer for these arguments.

        Raises `NotKeptError` if nothing is kept for them.
        """

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call with these arguments."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Drop what is kept for these arguments; return how many entries went."""


def wrap(
    function: Callable[..., Any],
    fills: Fills,
    reader: Reader,
    options: FunctionOptions,
    make: Callable[..., Calls] | None = None,
) -> Any:
    """Return the function with its results kept. Raises `ConfigurationError` for generators."""
    _check(function)
    calls = (make or Calls)(function, fills, reader, options)
    wrapper = _async_wrapper(calls) if inspect.iscoroutinefunction(function) else _wrapper(calls)
    functools.update_wrapper(wrapper, function)
    wrapper.receipt, wrapper.key = calls.receipt, calls.key  # type: ignore[attr-defined]
    wrapper.invalidate = calls.invalidate  # type: ignore[attr-defined]
    return wrapper


def _check(function: Any) -> None:
    if isinstance(function, (classmethod, staticmethod)):
        raise ConfigurationError("put cache.cached below @classmethod or @staticmethod, not above")
    if not callable(function):
        raise ConfigurationError(f"cache.cached takes a function, not {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{_name_of(function)} is a generator, which can be read only once: return a list"
        )
    try:
        inspect.signature(function)
    except ValueError:
        raise ConfigurationError(
            f"{_name_of(function)} does not tell its parameters: wrap it in a function"
        ) from None


def _name_of(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _wrapper(calls: Calls) -> Callable[..., Any]:
    shortcuts, touched, slow = calls.shortcuts, calls.fills.board.store.touched, calls.call
    proof, clock = calls.proof, calls.proof.clock

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            if kwargs:
                entry = shortcuts[_probe_of(args, kwargs)]
            else:
                entry = shortcuts[args + tuple(map(type, args))]
        except (KeyError, TypeError):
            return slow(args, kwargs)
        until = proof.until  # before the state: a poll between the two would prove what it outdates
        if (until is None or clock() < until) and entry.state == 0 and current() is None:
            entry.hits += 1
            touched(entry.standing)
            return entry.value
        return slow(args, kwargs)

    return wrapper


def _async_wrapper(calls: Calls) -> Callable[..., Any]:
    shortcuts, touched, slow = calls.shortcuts, calls.fills.board.store.touched, calls.call_async
    proof, clock = calls.proof, calls.proof.clock

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            entry = shortcuts[_probe_of(args, kwargs)]
        except (KeyError, TypeError):
            return await slow(args, kwargs)
        until = proof.until  # before the state: a poll between the two would prove what it outdates
        if (until is None or clock() < until) and entry.state == 0 and current() is None:
            entry.hits += 1
            touched(entry.standing)
            return entry.value
        return await slow(args, kwargs)

    return wrapper


def _probe_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if not kwargs:
        return args + tuple(map(type, args))
    values = args + tuple(kwargs.values())
    # `...` keeps f(1, 2) and f(1, b=2) apart: their shortcuts may, but need not, differ
    return (..., *kwargs, ..., *values, *map(type, values))


class Calls:
    """Turn calls of one function into requests."""

    def __init__(
        self, function: Callable[..., Any], fills: Fills, reader: Reader, options: FunctionOptions
    ) -> None:
        self.function = function
        self.fills = fills
        self.options = options
        self.shortcuts: dict[object, Entry] = {}
        self._reader = reader
        self._signature = inspect.signature(function)
        self._identity = _identity_of(function)
        self._name = _name_of(function)
        assert fills.proof is not None  # noqa: S101 - the fills of a Cache have one
        self.proof = fills.proof
        own = options.freshness
        self._rule = self.proof.freshness if own is None else freshness_of(own)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call that no shortcut answered."""
        request = self.request(args, kwargs)
        reason = self.proof.objection(self._rule, request.sources)
        if reason is not None:
            return self.fills.bypass(
                request, reason, lambda: self.function(*args, **kwargs)
            ).value()
        request.renew = lambda: self.call(args, kwargs)
        answer = self.fills.answer(request, lambda: self._compute(request.key, args, kwargs))
        return self._hand_out(answer)

    def _compute(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        board = self.fills.board
        if unchanged(board, key, board.clock()):
            return recalled()
        return self.function(*args, **kwargs)

    async def _compute_async(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        board = self.fills.board
        if await unchanged_async(board, key, board.clock()):
            return recalled()
        return await self.function(*args, **kwargs)

    async def call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call of a coroutine function that no shortcut answered."""
        request, reason = await self.asking(args, kwargs)
        if reason is not None:
            return await self.fills.bypass_async(
                request, reason, lambda: self.function(*args, **kwargs)
            )
        request.renew = lambda: self.call_async(args, kwargs)
        answer = await self.fills.answer_async(
            request, lambda: self._compute_async(request.key, args, kwargs)
        )
        return self._hand_out(answer)

    async def asking(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Request, str | None]:
        """Return what to ask the engine for a call, and why nothing kept may answer it now."""
        request = self.request(args, kwargs)
        return request, self.proof.objection(self._rule, request.sources)

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """Return what to ask the engine for a call."""
        plain = not self.options.copy and self.options.keep_errors is None
        plain = plain and all(type(v) in PLAIN for v in (*args, *kwargs.values()))
        usual = self._rule == self.proof.freshness  # that of the hit path
        return Request(
            key=self.key(*args, **kwargs),
            kind="call",
            label=self._name,
            sources=self._sources(),
            ttl=self._rule.lifetime(self.options.ttl),
            grace=self.options.stale_while_revalidate,
            beta=self.options.early_refresh,
            keep_errors=self.options.keep_errors,
            shortcuts=self.shortcuts if usual else None,
            probe=_probe_of(args, kwargs) if plain else None,
            detail={"function": self._name, "args": args, "kwargs": kwargs},
        )

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of a call: the code's identity and the arguments by parameter."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return digest("call", function=self._identity, arguments=dict(bound.arguments))
        except UnkeyableError as error:
            raise UnkeyableError(f"argument of {self._name}: {error}") from None

    def receipt(self, *args: Any, **kwargs: Any) -> Receipt:
        """Return the receipt of the last answer for these arguments."""
        key = self.key(*args, **kwargs)
        entry = self.fills.board.peek(key)
        if entry is None:
            past = self.fills.board.past(key)
            state = "was never called" if past is None else f"has nothing kept ({past.reason})"
            raise NotKeptError(f"{self._name} {state} with these arguments: call it first")
        if entry.hits:
            return self.fills.receipt(Answer(entry, "hit", HIT))
        return self.fills.receipt(Answer(entry, cast("Status", entry.origin), entry.reason))

    def invalidate(self, *args: Any, **kwargs: Any) -> int:
        """Drop what is kept for these arguments."""
        return self.fills.board.invalidate([self.key(*args, **kwargs)])

    def _sources(self) -> tuple[Source, ...]:
        return self._reader.whole_tables(self.options.tables) if self.options.depends_on else ()

    def _hand_out(self, answer: Answer) -> Any:
        value = answer.value()
        return deepcopy(value) if self.options.copy else value


def _identity_of(function: Callable[..., Any]) -> object:
    """Return what tells this function's code from any other's, the same in every process."""
    layers: list[object] = []
    layer: Any = function
    while layer is not None:  # what functools.wraps put around it is part of it
        code = getattr(layer, "__code__", None)
        # a callable object or a builtin has no code to tell it by: it equals itself alone
        layers.append(next(_closures) if code is None else (_code_of(code), _captured(layer)))
        layer = getattr(layer, "__wrapped__", None)
    return (_name_of(function), tuple(layers))


def _code_of(code: CodeType) -> tuple[object, ...]:
    constants = tuple(
        _code_of(constant) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
    )
    return (code.co_code, code.co_names, constants)


def _captured(function: Any) -> object:
    cells = [cell.cell_contents for cell in function.__closure__ or () if not _empty(cell)]
    values = (*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if all(map(_immutable, values)):
        return canonical((cells, function.__defaults__, function.__kwdefaults__))
    # it captured something that may change, or has no canonical form: it equals itself alone
    return next(_closures)


def _immutable(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_immutable, value))
    return type(value) in _CONSTANT


def _empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises when the cell is empty
    except ValueError:
        return True
    return False
