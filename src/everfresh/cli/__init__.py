"""The command line: `everfresh`."""

from __future__ import annotations

from everfresh.cli.app import main

__all__ = ["main"]
