"""What is asked: its probe, which hits look up, and its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType, NoneType
from typing import Any, Literal

from everfresh.errors import StatementError, UnkeyableError
from everfresh.kernel.keys import PLAIN, digest

__all__ = ["ALL", "CALL", "Form", "Question"]

Form = Literal["one", "all", "call"]

# first elements of probes; `one` has none: its probes begin with the text of the query
ALL, CALL = object(), object()


@dataclass(frozen=True, slots=True)
class Question:
    """Hold one call of a micro-cache, whose number is ``owner``.

    Raises `StatementError` for a query that is no text, or parameters that are neither a mapping
    nor a sequence.
    """

    owner: int
    form: Form
    queries: tuple[str, ...]
    parameters: Any = None
    callback: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for query in self.queries:
            if not isinstance(query, str):
                raise StatementError(
                    f"a query is SQL text, not {type(query).__name__}: write it as a str"
                )
        given = self.parameters
        if isinstance(given, (str, bytes)) or not isinstance(given, (Mapping, Sequence, NoneType)):
            raise StatementError(
                f"parameters are a mapping or a sequence, not {type(given).__name__}: "
                "write one value as (value,)"
            )

    @property
    def label(self) -> str:
        """The text that receipts and errors show."""
        return "; ".join(self.queries)

    def key(self, *, by_callback: bool) -> str:
        """Return the key: typed, by the content of the parameters, in one micro-cache.

        Raises `UnkeyableError` for parameters of unknown types.
        """
        parameters = self.parameters
        if isinstance(parameters, Mapping):
            parameters = dict(parameters)
        return digest(
            "micro",
            owner=self.owner,
            form=self.form,
            queries=self.queries,
            parameters=parameters,
            callback=_identity_of(self.callback) if by_callback else None,
        )

    def probe(self, *, by_callback: bool) -> object:
        """Return what is looked up for a hit, None if only the key tells."""
        probe = self._plain_probe()
        if by_callback and probe is not None:
            return (_identity_of(self.callback), probe)
        return probe

    def _plain_probe(self) -> object:
        """Return what the hit path of `QueryCache` writes out itself, but for sequences."""
        if self.form == "call":
            return (CALL, *self.queries)
        head = self.queries if self.form == "one" else (ALL, *self.queries)
        if self.parameters is None:
            return self.queries[0] if self.form == "one" else head
        cls = type(self.parameters)
        if cls is dict:
            names, values = (*self.parameters,), (*self.parameters.values(),)
        elif cls is tuple or cls is list:
            head, names, values = (cls, *head), (), (*self.parameters,)
        else:
            return None
        if {*map(type, names)} - {str} or {*map(type, values)} - PLAIN:
            return None
        return (*head, *names, *values, *map(type, values))


def _identity_of(callback: Any) -> object:
    """Return what tells a callback from others for as long as it lives.

    Functions of the same code that captured equal values are one: a lambda is made anew each time
    its line runs. Whoever keeps a result under this must keep the callback alive.
    """
    if isinstance(callback, MethodType):
        return ("method", id(callback.__self__), _identity_of(callback.__func__))
    if not isinstance(callback, FunctionType):
        return None if callback is None else ("object", id(callback))
    if not (callback.__closure__ or callback.__defaults__ or callback.__kwdefaults__):
        return ("function", id(callback.__code__))
    try:
        cells = [cell.cell_contents for cell in callback.__closure__ or ()]
        parts = [cells, callback.__defaults__, callback.__kwdefaults__]
        return ("function", id(callback.__code__), digest("captured", parts=parts))
    except (UnkeyableError, ValueError):  # it captured what has no key, or an empty cell
        return ("object", id(callback))
