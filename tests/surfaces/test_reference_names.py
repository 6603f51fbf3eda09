"""What the reference documents name is here, with the arguments and defaults they give."""

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

from everfresh.errors import EverfreshError
from everfresh.orm import CacheableMixin, CachingQuery, FromCache, RelationshipCache, regions

from .orm_models import User

NAMES = tomllib.loads((Path(__file__).parent / "reference_names.toml").read_text("utf-8"))
CLASSES = [
    (surface, name, spec)
    for surface, document in NAMES.items()
    for name, spec in document.get("classes", {}).items()
]
METHODS = [
    (surface, name, method, signature)
    for surface, name, spec in CLASSES
    for method, signature in spec.get("methods", {}).items()
]
EXCEPTIONS = [
    (surface, name, text)
    for surface, document in NAMES.items()
    for name, text in document.get("exceptions", {}).items()
]


def named(surface, name):
    module = importlib.import_module(NAMES[surface]["module"])
    assert name in module.__all__
    return getattr(module, name)


def documented(signature):
    """Return [(name, default, is variadic)] of a signature written as text."""
    tables = importlib.import_module("everfresh.tables")
    scope = {"CachingQuery": CachingQuery, "StorageRecordsSpec": tables.StorageRecordsSpec}
    exec(f"def f{signature}: pass", scope)
    return shape(inspect.signature(scope["f"]))


def shape(signature):
    return [
        (p.name, p.default, p.kind is p.VAR_POSITIONAL)
        for p in signature.parameters.values()
        if p.name != "self" and p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
    ]


@pytest.mark.parametrize(("surface", "name", "spec"), CLASSES)
def test_classes_take_what_their_document_says(surface, name, spec):
    cls = named(surface, name)
    assert shape(inspect.signature(cls)) == documented(spec["signature"])
    assert cls.__doc__.startswith(spec.get("doc", ""))


@pytest.mark.parametrize(("surface", "name", "method", "signature"), METHODS)
def test_methods_take_what_their_document_says(surface, name, method, signature):
    ours = shape(inspect.signature(getattr(named(surface, name), method)))
    theirs = documented(signature)
    if method == "__call__":  # two or more arguments: the first query has a place of its own
        assert [(p[0], p[2]) for p in ours] == [
            ("callback", False),
            ("query", False),
            ("queries", True),
        ]
        assert [(p[0], p[2]) for p in theirs] == [("callback", False), ("queries", True)]
    else:
        assert ours == theirs


@pytest.mark.parametrize(("surface", "name", "text"), EXCEPTIONS)
def test_exceptions_are_of_our_tree_too(surface, name, text):
    cls = named(surface, name)
    assert issubclass(cls, EverfreshError)
    assert cls.__doc__.startswith(text)


FUNCTIONS = [
    (surface, name, spec)
    for surface, document in NAMES.items()
    for name, spec in document.get("functions", {}).items()
]


@pytest.mark.parametrize(("surface", "name", "spec"), FUNCTIONS)
def test_functions_take_what_their_document_says(surface, name, spec):
    function = named(surface, name)
    assert shape(inspect.signature(function)) == documented(spec["signature"])
    assert function.__doc__.startswith(spec.get("doc", ""))


def test_each_row_names_a_test_that_is_there():
    folder = Path(__file__).parent
    for document in NAMES.values():
        specs = [*document.get("classes", {}).values(), *document.get("functions", {}).values()]
        named_tests = [spec["tests"] for spec in specs if "tests" in spec]
        for place in [*named_tests, *document.get("values", {}).values()]:
            file, _, test = place.partition("::")
            assert f"def {test}(" in (folder / file).read_text("utf-8"), place


def test_attributes_are_there():
    from everfresh.micro import Entry, QueryCache

    made = {
        "QueryCache": QueryCache(lambda: None),
        "Entry": Entry(),
        "CachingQuery": CachingQuery(regions, User),
        "FromCache": FromCache(),
        "RelationshipCache": RelationshipCache(User.addresses),
        "Cache": User.cache,
        "CacheableMixin": CacheableMixin,
    }
    for surface, name, spec in CLASSES:
        if surface not in ("micro", "orm"):
            continue
        for attribute in spec.get("attributes", ()):
            assert attribute in dir(made[name])
    made["QueryCache"].close()


def test_the_curated_names_are_all_there_is():
    for document in NAMES.values():
        module = importlib.import_module(document["module"])
        public = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and name != "annotations" and not inspect.ismodule(value)
        }
        assert public == set(module.__all__)
