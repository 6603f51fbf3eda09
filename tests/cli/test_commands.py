"""The command line as a user meets it: a process, its output, its exit code."""

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from everfresh.cli import main

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"


def as_process(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-c", "from everfresh.cli import main; main()", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def everfresh(*arguments, stdin=""):
    """Run the command in this process: a new one would import everything again."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["everfresh", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture
def url(tmp_path):
    connection = sqlite3.connect(tmp_path / "flights.db")
    connection.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER)")
    connection.executemany(
        "INSERT INTO flights (month) VALUES (?)", [(n % 12 + 1,) for n in range(24)]
    )
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path}/flights.db"


def test_it_runs_as_a_process(url):
    done = as_process("sql", url, COUNT, "-p", "m=6", "--json")
    assert json.loads(done.stdout)["rows"] == [{"n": 2}]


def test_sql_prints_rows_and_receipt(url):
    done = everfresh("sql", url, COUNT, "-p", "m=6")
    assert done.returncode == 0
    assert "fill: asked for the first time" in done.stdout
    data = json.loads(everfresh("sql", url, COUNT, "-p", "m=6", "--json").stdout)
    assert data["rows"] == [{"n": 2}]
    assert data["receipt"]["sources"] == ["flights WHERE month = 6"]


def test_parameters_are_json_or_text(url):
    statement = "SELECT typeof(:x) AS kind"
    for text, kind in (
        ("1", "integer"),
        ("1.5", "real"),
        ("UA", "text"),
        ('"1"', "text"),
        ("null", "null"),
    ):
        data = json.loads(everfresh("sql", url, statement, "-p", f"x={text}", "--json").stdout)
        assert data["rows"][0]["kind"] == kind


def test_why_explains(url):
    done = everfresh("why", url, COUNT, "-p", "m=6")
    assert "sources: flights WHERE month = 6" in done.stdout
    data = json.loads(everfresh("why", url, "SELECT random() FROM flights", "--json").stdout)
    assert data["status"] == "bypass"


def test_stats_and_audit_run_a_workload(url, tmp_path):
    file = tmp_path / "work.sql"
    file.write_text(
        "-- the dashboard; with a semicolon in a comment\n"
        '-- params: {"m": 6}\n'
        f"{COUNT};\nSELECT 'a;b' AS text;\n-- the end\n"
    )
    figures = json.loads(everfresh("stats", url, "-w", str(file), "--rounds", "3", "--json").stdout)
    assert (figures["fills"], figures["hits"], figures["entries"]) == (2, 4, 2)
    done = everfresh("audit", url, stdin=file.read_text())
    assert done.stdout.strip().splitlines()[-1] == "audit: 2 checked, 0 stale"
    assert "hits" in everfresh("stats", url, "-w", str(file)).stdout


def test_doctor_says_what_to_mend(url, tmp_path):
    done = everfresh("doctor", url)
    assert done.returncode == 0
    assert "row by row" in done.stdout
    findings = json.loads(everfresh("doctor", f"sqlite:///{tmp_path}/none.db", "--json").stdout)
    assert findings[-1]["state"] == "mend"
    assert "check the path" in findings[-1]["meaning"]
    assert everfresh("doctor", "mysql://host/db").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sql", "sqlite:///nowhere.db", "SELECT 1"), "there is no SQLite file"),
        (("sql", "mysql://u:hunter2@h/d", "SELECT 1"), "cannot follow changes of 'mysql'"),
        (("sql", "URL", "SELECT FROM"), "syntax error"),
        (("sql", "URL", "DELETE FROM flights"), "only reads"),
        (("sql", "URL", COUNT), "no value was given for m"),
        (("sql", "URL", COUNT, "-p", "m"), "name=value"),
        (("audit", "URL", "-w", "nowhere.sql"), "workload cannot be read"),
        (("stats", "URL"), "no statement"),
    ],
)
def test_errors_are_one_line_and_exit_1(url, arguments, message):
    done = everfresh(*(url if a == "URL" else a for a in arguments))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_unknown_commands_exit_2(url):
    assert everfresh("nonsense").returncode == 2
    assert everfresh("--help").returncode == 0


def test_the_demo_shows_the_main_job(tmp_path):
    """The real data, the whole run: what was refilled, what was kept, no stale answer."""
    file = tmp_path / "flights.db"
    done = everfresh("demo", "--database", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "audit: 12 checked, 0 stale"
    data = json.loads(everfresh("demo", "--database", str(file), "--json").stdout)
    assert data["audit"] == {
        "checked": 12,
        "stale": 0,
        "changed": 0,
        "skipped": 0,
        "stale_keys": [],
    }
    again = {q["title"]: q["after"] for q in data["questions"]}
    assert again["Delay by carrier, June"] == ["asked again", "kept", "kept"]
    assert again["Delay by carrier, May"] == ["kept", "kept", "kept"]
    assert again["The life of plane N14228"] == ["kept", "kept", "asked again"]
    assert again["The life of plane N24211"] == ["kept", "kept", "kept"]
    assert data["why"]["last_outdated_by"] == "an UPDATE of main.airlines, row ('B6',)"
    assert len(data["questions"]) == 12
    rows = sqlite3.connect(file).execute("SELECT count(*) FROM flights").fetchone()
    assert rows == (336_776,)


def test_an_interrupted_load_leaves_no_half_file(tmp_path, monkeypatch):
    from rich.console import Console

    from everfresh.cli.demo import show

    def interrupted(file, progress):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "load_flights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        show.run_demo(Console(quiet=True), tmp_path / "flights.db")
    assert not (tmp_path / "flights.db").exists()


def test_brackets_are_text_not_markup(url):
    """A message with [extra] in it, and data with [tags], come out as they are."""
    code = "import sys; sys.modules['psycopg'] = None; from everfresh.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "sql", "postgresql://localhost/x", "SELECT 1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'everfresh[postgres]'" in done.stderr
    shown = everfresh("sql", url, "SELECT '[red]x[/red]' AS \"[b]n\"").stdout
    assert "[red]x[/red]" in shown
    assert "[b]n" in shown
    assert (
        "'[red]'"
        in everfresh("why", url, "SELECT id FROM flights WHERE id = :x", "-p", "x=[red]").stdout
    )


@pytest.fixture
def kept(url, tmp_path):
    """A tracked database, and a catalogue and a store that know two answers of it."""
    import everfresh as library

    places = {
        "catalogue": f"sqlite:///{tmp_path}/catalogue.db",
        "store": f"sqlite:///{tmp_path}/answers.db",
    }
    with library.open(url, **places) as cache:
        cache.track()
        for _ in range(3):
            cache.sql(COUNT, m=6)
        cache.sql(COUNT, m=5)
        total = cache.cached(lambda: cache.sql(COUNT, m=6).scalar())
        total()
    return places


def data_of(*arguments):
    done = everfresh(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ls_lists_what_was_kept(kept):
    rows = data_of("ls", "-c", kept["catalogue"], "--order", "hits")
    assert (rows[0]["kind"], rows[0]["hits"]) == ("sql", 3)
    assert sorted(row["kind"] for row in rows) == ["call", "sql", "sql"]
    assert rows[0]["sources"] == ["flights WHERE month = 6"]
    assert "SELECT" in everfresh("ls", "-c", kept["catalogue"]).stdout
    assert data_of("ls", "-c", kept["catalogue"], "--table", "planes") == []
    wrong = everfresh("ls", "-c", kept["catalogue"], "--order", "beauty")
    assert (wrong.returncode, "unknown order" in wrong.stderr) == (1, True)


def test_impact_goes_through_other_answers(kept):
    rows = data_of("impact", "flights", "-c", kept["catalogue"])
    assert sorted(row["kind"] for row in rows) == ["call", "sql", "sql"]
    assert data_of("impact", "planes", "-c", kept["catalogue"]) == []


def test_invalidate_reaches_the_store_and_running_processes(kept, url):
    import everfresh as library

    with library.open(url, freshness="strict") as cache:
        assert cache.sql(COUNT, m=6).receipt.status == "fill"
        done = data_of("invalidate", url, "flights", "-s", kept["store"], "-c", kept["catalogue"])
        assert done == {"tables": ["main.flights"], "dropped": 2}
        assert cache.sql(COUNT, m=6).receipt.status == "refresh"
    with library.open(url, store=kept["store"]) as cache:
        assert cache.sql(COUNT, m=6).receipt.status == "fill"
    everfresh("track", "remove", url)
    nobody = everfresh("invalidate", url, "flights")
    assert (nobody.returncode, "nothing hears of this" in nobody.stderr) == (1, True)


def test_shrink_says_what_would_go_and_then_does_it(kept):
    would = data_of("shrink", "-s", kept["store"], "--to", "0", "--dry-run")
    assert len(would["gone"]) == 2
    assert data_of("shrink", "-s", kept["store"], "--to", "0")["gone"] == would["gone"]
    assert data_of("shrink", "-s", kept["store"], "--to", "0")["gone"] == []
    assert everfresh("shrink", "-s", kept["store"], "--to", "much").returncode == 2


def test_a_command_that_reads_makes_no_file_and_moves_none(tmp_path):
    precious = tmp_path / "precious.bin"
    precious.write_bytes(b"not a database, but dear to somebody")
    for place in (precious, tmp_path / "absent.db"):
        for arguments in (
            ("ls", "-c", f"sqlite:///{place}"),
            ("impact", "flights", "-c", f"sqlite:///{place}"),
            ("gc", "-c", f"sqlite:///{place}"),
            ("shrink", "-s", f"sqlite:///{place}", "--to", "0"),
        ):
            done = everfresh(*arguments)
            assert (done.returncode, "SQLite file" in done.stderr) == (1, True), arguments
    assert [file.name for file in tmp_path.iterdir()] == ["precious.bin"]


def test_track_says_what_it_will_do_before_it_does_it(url):
    asked = everfresh("track", "install", url, stdin="n\n")
    assert asked.returncode == 1
    assert "CREATE TABLE main.everfresh_change" in asked.stdout
    assert data_of("track", "status", url)["tracked"] == []
    assert data_of("track", "install", url, "--yes")["tracked"] == ["main.flights"]
    assert "flights" in everfresh("track", "status", url).stdout
    doctor = {found["check"]: found for found in data_of("doctor", url)}
    assert doctor["other writers"]["state"] == "ok"
    assert data_of("track", "remove", url)["history"] is None
    memory = everfresh("track", "status", "sqlite://")
    assert (memory.returncode, "no other writers" in memory.stderr) == (1, True)


def test_gc_prunes_what_is_over(kept, url, tmp_path):
    connection = sqlite3.connect(tmp_path / "flights.db")
    for _ in range(5):
        connection.execute("INSERT INTO flights (month) VALUES (1)")
        connection.commit()
    connection.close()
    assert data_of("gc", "-d", url, "--keep-rows", "2") == {"changes": 3}
    assert data_of("gc", "-c", kept["catalogue"], "--days", "0")["entries"] >= 0
    assert everfresh("gc").returncode == 1


def test_audit_counts_its_nines_over_time(kept, url):
    for times in (1, 2):
        found = data_of("audit", url, "-c", kept["catalogue"], "-s", kept["store"])
        assert (found["checked"], found["stale"]) == (2, 0)
        day = found["over_time"][0]
        assert (day["period"], day["checked"], day["stale"]) == ("day", 2 * times, 0)
        assert day["nines"] > 0
    shown = everfresh("audit", url, "-c", kept["catalogue"]).stdout
    assert "last day: 6 checked in 3 audits, 0 stale: at least" in shown


def test_the_version_of_a_catalogue(kept):
    assert everfresh("catalogue", "version", kept["catalogue"]).stdout == "1.0\n"
    assert everfresh("catalogue", "upgrade", kept["catalogue"]).returncode == 0


@pytest.mark.parametrize("verb", [["status"], ["install", "-y"], ["remove"]])
@pytest.mark.parametrize("kind", ["garbage", "folder"])
def test_what_is_no_database_cannot_be_tracked_and_one_line_says_so(tmp_path, verb, kind):
    path = tmp_path / "odd.db"
    path.mkdir() if kind == "folder" else path.write_bytes(b"no database at all" * 100)
    done = as_process("track", *verb, f"sqlite:///{path}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
