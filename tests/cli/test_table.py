"""`everfresh table`: look into a cached table."""

import json

from cli.test_commands import everfresh, url  # noqa: F401 - a fixture

SELECT = "SELECT id, month FROM flights"


def test_it_shows_matching_records_and_figures(url):  # noqa: F811
    done = everfresh(
        "table", url, SELECT, "-k", "id", "-b", "month", "--by=-id", "--value", "6", "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [record["id"] for record in answer["records"]] == [18, 6]
    assert answer["table"]["records"] == 24
    assert answer["table"]["matching"] == 2
    ranged = everfresh("table", url, SELECT, "-k", "id", "--ge", "5", "--lt", "20", "--limit", "3")
    assert ranged.returncode == 0
    assert "24 records" in ranged.stdout
    assert "15 match" in ranged.stdout
    assert "month" in ranged.stdout


def test_mistakes_are_one_line(url):  # noqa: F811
    for arguments in (
        ("table", url, SELECT, "-k", "nothing"),
        ("table", url, SELECT, "-k", "id", "--ge", "9", "--lt", "1"),
        ("table", "oracle://x", SELECT, "-k", "id"),
    ):
        done = everfresh(*arguments)
        assert done.returncode == 1, arguments
        assert done.stderr.strip().startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
