"""How an error that is shared or kept is raised: anew each time, and without old frames."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

__all__ = ["again", "bare"]

E = TypeVar("E", bound=BaseException)


def bare(error: E) -> E:
    """Return an exception like this one without its traceback, nor those of what caused it.

    >>> bare(ValueError("no"))
    ValueError('no')
    """
    twin = again(error)
    if twin is error:
        return error
    cause = error.__cause__
    twin.__cause__ = None if cause is None or cause is error else bare(cause)
    return twin.with_traceback(None)


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
