"""What a callback makes of rows, and how a kept error is raised again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar

from everfresh.errors import EverfreshError, RecursiveFillError

__all__ = ["FormattingError", "again", "formatting", "keepable"]

E = TypeVar("E", bound=BaseException)


class FormattingError(EverfreshError, RuntimeError):
    """Represent a problem with a format callable; its ``__cause__`` is what the callable raised."""


@contextmanager
def formatting(callback: Callable[..., Any]) -> Iterator[None]:
    """Raise what the callback raises inside the block as `FormattingError` from the original."""
    try:
        yield
    except RecursiveFillError:
        raise  # it names the fault already: the callback asked for its own result
    except Exception as error:
        name = getattr(callback, "__qualname__", None) or repr(callback)
        raise FormattingError(f"{name} raised {type(error).__name__}: {error}") from error


def keepable(value: object) -> object:
    """Return a value that can be handed out more than once.

    Raises TypeError for what can be read only once.

    >>> keepable(n for n in (1, 2))
    Traceback (most recent call last):
    TypeError: it returned a generator, which can be read only once: return a list
    """
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError("it returned a generator, which can be read only once: return a list")
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("it is a coroutine function: use everfresh.micro.AsyncQueryCache")
    return value


def again(error: E) -> E:
    """Return a new exception like a kept one: each raise of a shared one would grow its traceback.

    >>> kept = ValueError("no")
    >>> again(kept) is kept, repr(again(kept))
    (False, "ValueError('no')")
    """
    twin = _twin(error)
    twin.__cause__ = error.__cause__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)


def _twin(error: E) -> E:
    for make in (copy, _without_init):
        try:
            twin = make(error)
            if type(twin) is type(error) and twin is not error and str(twin) == str(error):
                return twin
        except Exception:  # noqa: S112 - any class may refuse to be copied in any way
            continue
    # the class allows no copy: one object for all, whose traceback begins anew at each raise
    return error.with_traceback(None)


def _without_init(error: E) -> E:
    # a class whose __init__ takes other arguments than those it hands on cannot be called again
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin
