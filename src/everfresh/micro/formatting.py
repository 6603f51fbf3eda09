"""What a callback makes of rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from everfresh.errors import EverfreshError, RecursiveFillError

__all__ = ["FormattingError", "formatting", "keepable"]


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
