"""The package itself: what importing costs, public names, the warnings canary."""

import importlib
import subprocess
import sys
import warnings

import pytest

import everfresh
from everfresh import errors


def test_importing_imports_neither_sqlalchemy_nor_sqlglot():
    code = (
        "import sys, everfresh; "
        "print([m for m in ('sqlalchemy', 'sqlglot', 'msgspec', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_exist_and_are_all_there_is():
    for name in everfresh.__all__:
        assert getattr(everfresh, name) is not None
    assert set(everfresh.__all__) | {"__version__"} == set(dir(everfresh))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = everfresh.nonsense


def test_every_error_is_of_one_root_and_of_a_builtin():
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert issubclass(cls, errors.EverfreshError)
        if cls is not errors.EverfreshError:
            foreign = [b for b in cls.__mro__ if b.__module__ == "builtins"]
            assert any(b not in (Exception, BaseException, object) for b in foreign), name
        assert name in errors.__doc__


def test_a_warning_fails_a_test():
    """The canary: pytest's filter turns warnings into errors."""
    with pytest.raises(UserWarning):
        warnings.warn("canary", UserWarning, stacklevel=1)


def test_a_missing_extra_names_the_command(monkeypatch):
    codec = importlib.import_module("everfresh.stores.codec")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'everfresh\[arrow\]'"):
        codec.ArrowCodec()
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'everfresh\[postgres\]'"):
        everfresh.open("postgresql://host/name")
