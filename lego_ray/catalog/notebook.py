"""Tables of Arrow as tables in a notebook, where they would be text of their schema and columns."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

from lego_ray.records import SHOWN, rows_table

if TYPE_CHECKING:
    import pyarrow as pa


def in_notebook(found: pa.Table) -> pa.Table:
    """The table as it is; in IPython, tables of Arrow have an HTML form from then on.

    It is registered for the type, which cannot have methods added, and only where nobody else did.

    Args:
        found: What a call returns.
    """
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if shell is not None:
            html = shell.display_formatter.formatters["text/html"]
            if type(found) not in html.type_printers and _NAME not in html.deferred_printers:
                html.for_type(type(found), html_of)
    return found


_NAME = ("pyarrow.lib", "Table")


def html_of(found: pa.Table) -> str:
    """The first rows of a table as HTML, and how many there are; its columns where it has no row.

    Args:
        found: The table.
    """
    more = f", the first {SHOWN} shown" if found.num_rows > SHOWN else ""
    said = f"{found.num_rows:,} row{'' if found.num_rows == 1 else 's'}{more}; to_pandas() has all"
    if not found.num_rows:
        said = f"no rows; columns: {', '.join(found.column_names)}"
    return f"{rows_table(found.slice(0, SHOWN).to_pylist())}<p>{escape(said)}</p>"
