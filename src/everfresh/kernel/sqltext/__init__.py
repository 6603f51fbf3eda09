"""What a statement reads or writes, told from its text and the schema; pure, and never raises.

`analyse` finds the sources of a SELECT: `grammar` parses it, `allowed` refuses what is not
understood, `blocks` finds the occurrences of tables and the conditions that may judge their rows,
`conditions` turns those into tests. `classify` tells the effect of any statement, `only_reads`
whether it can only be a question.
"""

from __future__ import annotations

from everfresh.kernel.sqltext.analysis import analyse
from everfresh.kernel.sqltext.effects import classify
from everfresh.kernel.sqltext.reading import only_reads

__all__ = ["analyse", "classify", "only_reads"]
