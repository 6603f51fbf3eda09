"""What a statement reads or writes, told from its text and the schema; pure, and never raises.

`analyse` finds the sources of a SELECT: `grammar` parses it, `allowed` refuses what is not
understood, `blocks` finds the occurrences of tables and the conditions that may judge their rows,
`conditions` turns those into tests. `classify` tells the effect of any statement.
"""

from __future__ import annotations

from everfresh.kernel.sqltext.analysis import analyse
from everfresh.kernel.sqltext.effects import classify

__all__ = ["analyse", "classify"]
