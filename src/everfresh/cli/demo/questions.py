"""What the demo asks, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CHANGES", "QUESTIONS", "Change", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """Hold one question of the dashboard."""

    title: str
    sql: str
    parameters: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """Hold one commit of the demo."""

    title: str
    sql: str
    parameters: dict[str, object]


_DELAY_BY_CARRIER = """
    SELECT carrier, count(*) AS flights, round(avg(arr_delay), 1) AS delay
    FROM flights WHERE month = :month GROUP BY carrier ORDER BY delay DESC"""

QUESTIONS = (
    Question("Delay by carrier, June", _DELAY_BY_CARRIER, {"month": 6}),
    Question("Delay by carrier, May", _DELAY_BY_CARRIER, {"month": 5}),
    Question(
        "Delay by airline name, June",
        """
        SELECT a.name, round(avg(f.arr_delay), 1) AS delay
        FROM flights f JOIN airlines a ON a.carrier = f.carrier
        WHERE f.month = :month GROUP BY a.name ORDER BY delay DESC""",
        {"month": 6},
    ),
    Question(
        "Ten busiest routes",
        """
        SELECT f.origin, p.name AS destination, count(*) AS flights
        FROM flights f JOIN airports p ON p.faa = f.dest
        GROUP BY f.origin, p.name ORDER BY flights DESC, destination LIMIT 10""",
    ),
    Question(
        "Late by over 30 minutes, by origin",
        """
        SELECT origin, round(100.0 * sum(arr_delay > 30) / count(*), 1) AS percent_late
        FROM flights GROUP BY origin ORDER BY percent_late DESC""",
    ),
    Question(
        "Worst hours to depart",
        """
        SELECT hour, round(avg(dep_delay), 1) AS delay,
               rank() OVER (ORDER BY avg(dep_delay) DESC) AS place
        FROM flights GROUP BY hour ORDER BY place LIMIT 5""",
    ),
    Question(
        "United's flights day by day, July",
        """
        SELECT day, count(*) AS flights, sum(count(*)) OVER (ORDER BY day) AS so_far
        FROM flights WHERE month = :month AND carrier = :carrier GROUP BY day ORDER BY day""",
        {"month": 7, "carrier": "UA"},
    ),
    Question(
        "Fleet by manufacturer",
        """
        SELECT manufacturer, count(*) AS planes, round(avg(seats)) AS seats
        FROM planes GROUP BY manufacturer ORDER BY planes DESC, manufacturer LIMIT 8""",
    ),
    Question(
        "The life of plane N14228",
        """
        SELECT p.manufacturer, p.model, p.seats, count(f.flight) AS flights
        FROM planes p LEFT JOIN flights f ON f.tailnum = p.tailnum
        WHERE p.tailnum = :tailnum GROUP BY p.tailnum""",
        {"tailnum": "N14228"},
    ),
    Question(
        "The life of plane N24211",
        """
        SELECT p.manufacturer, p.model, p.seats, count(f.flight) AS flights
        FROM planes p LEFT JOIN flights f ON f.tailnum = p.tailnum
        WHERE p.tailnum = :tailnum GROUP BY p.tailnum""",
        {"tailnum": "N24211"},
    ),
    Question(
        "JFK departures in rain and in dry",
        """
        SELECT w.precip > 0 AS rain, count(*) AS flights, round(avg(f.dep_delay), 1) AS delay
        FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
        WHERE f.origin = :origin GROUP BY rain ORDER BY rain""",
        {"origin": "JFK"},
    ),
    Question(
        "Airports without flights from here",
        """
        SELECT count(*) AS airports FROM airports
        WHERE faa NOT IN (SELECT dest FROM flights WHERE dest IS NOT NULL)""",
    ),
)

CHANGES = (
    Change(
        "one delay: a June flight lands 25 minutes later",
        """
        UPDATE flights SET arr_delay = arr_delay + :minutes
        WHERE rowid = (SELECT min(rowid) FROM flights
                       WHERE month = 6 AND carrier = 'UA' AND arr_delay IS NOT NULL)""",
        {"minutes": 25},
    ),
    Change(
        "one airline's name: JetBlue",
        """
        UPDATE airlines SET name = CASE name WHEN :name THEN 'JetBlue Airways' ELSE :name END
        WHERE carrier = 'B6'""",
        {"name": "JetBlue"},
    ),
    Change(
        "one plane: N14228 gets two more seats",
        "UPDATE planes SET seats = seats + :more WHERE tailnum = 'N14228'",
        {"more": 2},
    ),
)
