"""Run the tests on every installed Python (3.11 to 3.14) with SQLAlchemy 2.0 and 2.1."""

import shutil
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SQLALCHEMY = ("2.0.*", "2.1.*")
ROOT = Path(__file__).parent.parent


def interpreter(version: str) -> str | None:
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    works = subprocess.run([found, "-c", "import sqlite3, ssl"], capture_output=True)
    return found if works.returncode == 0 else None


def run(python: str, version: str, sqlalchemy: str) -> int:
    venv = ROOT / ".venvs" / f"{version}-sqlalchemy-{sqlalchemy.rstrip('.*')}"
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("sqlalchemy==")
    ]
    venv.parent.mkdir(exist_ok=True)
    constraints = venv.parent / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--quiet", "install"]
    wanted = ["-c", str(constraints), "-e", f"{ROOT}[test]", f"SQLAlchemy=={sqlalchemy}"]
    subprocess.run([*pip, *wanted], check=True)
    return subprocess.run([str(venv / "bin/python"), "-m", "pytest", "-q"], cwd=ROOT).returncode


def main() -> int:
    failed = []
    for version in PYTHONS:
        python = interpreter(version)
        if python is None:
            print(f"Python {version} is not installed: skipped")
            continue
        for sqlalchemy in SQLALCHEMY:
            print(f"== Python {version}, SQLAlchemy {sqlalchemy}", flush=True)
            if run(python, version, sqlalchemy):
                failed.append(f"{version} with {sqlalchemy}")
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
