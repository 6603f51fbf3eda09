"""Run the benchmarks and write results.json and RESULTS.md beside this file."""

import argparse
import importlib
import json
import os
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from bench.measure import Result

CASES = (
    "hits",
    "async_hits",
    "threads",
    "overhead",
    "stampede",
    "invalidation",
    "durable",
    "tracked_writes",
    "watching",
    "dashboard",
    "processes",
    "tables",
    "orm",
)
PACKAGES = (
    "everfresh",
    "SQLAlchemy",
    "dogpile.cache",
    "cachetools",
    "cachebox",
    "cashews",
    "diskcache",
    "redis",
    "psycopg",
)
OPTIONAL = ("tablecache",)  # for Python 3.12
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", choices=CASES, help="run one case")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    versions = {name: version(name) for name in PACKAGES}
    versions |= {name: version(name) for name in OPTIONAL if find_spec(name) is not None}
    versions["python"] = platform.python_version()
    results: list[Result] = []
    for case in CASES:
        if chosen.only in (None, case):
            for result in importlib.import_module(f"bench.{case}").run(chosen.rounds):
                print(result.line(), flush=True)
                results.append(result)
    everything = chosen.only is None and find_spec("tablecache") is not None
    write(results, versions, keep_others=not everything)
    return 0


def write(results: list[Result], versions: dict[str, str], *, keep_others: bool) -> None:
    file = HERE / "results.json"
    rows = [{**result.to_dict(), "versions": versions} for result in results]
    if keep_others and file.exists():
        new = {row["name"]: row for row in rows}
        old = json.loads(file.read_text())
        rows = [new.pop(row["name"], row) for row in old] + list(new.values())
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "RESULTS.md").write_text(markdown(rows, rows[0]["versions"]))


def markdown(rows: list[dict], versions: dict[str, str]) -> str:
    lines = [
        "# Results of `make bench`",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, "
        f"Python {versions['python']}"
        f"{' (free-threaded)' if not getattr(sys, '_is_gil_enabled', lambda: True)() else ''}; "
        + ", ".join(f"{n} {v}" for n, v in versions.items() if n != "python")
        + ".",
        "",
        "Ours and the peer alternate in one process; each figure is the median of the rounds. "
        "The ratio is ours ÷ peer: smaller is better.",
        *others(rows, versions),
        "",
        "| what | ours | peer | unit | ratio | goal | holds |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    lines += [
        f"| {row['name']} | {row['ours']:.4g} | {row['peer']:.4g} | {row['unit']} "
        f"| {row['ratio']:.3g} | ≤ {row['goal']:.3g} | {'yes' if row['holds'] else '**no**'} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def others(rows: list[dict], versions: dict[str, str]) -> list[str]:
    """Return what to say of rows that were measured with another Python: one peer needs it."""
    other = [row for row in rows if row["versions"]["python"] != versions["python"]]
    if not other:
        return []
    used = other[0]["versions"]
    peers = "".join(f", {name} {used[name]}" for name in OPTIONAL if name in used)
    first, last = other[0]["name"], other[-1]["name"]
    return [f"From “{first}” to “{last}”: Python {used['python']}{peers}."]


if __name__ == "__main__":
    sys.exit(main())
