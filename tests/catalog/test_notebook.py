"""In IPython the tables of a catalog have an HTML form; elsewhere nothing is registered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lego_ray
from lego_ray.records import SHOWN
from tests.zoo import write_zoo

CODE = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import lego_ray
catalog, rows = sys.argv[1], int(sys.argv[2])
def html(found):
    return shell.display_formatter.format(found)[0].get("text/html", "")
table = lego_ray.catalog.list_merges(catalog)
shown = html(table)
assert shown.startswith("<table>") and "&lt;b&gt;" in shown and "1 row;" in shown, shown
assert html(lego_ray.catalog.list_merges(catalog, at="1d")).startswith("<p>no rows; columns: merge_id")
many = html(lego_ray.catalog.sql(catalog, "SELECT * FROM range(30)"))
assert many.count("<tr>") == rows + 1 and f"30 rows, the first {rows} shown" in many, many
print(table.to_pandas.__name__)
import pyarrow
shell.display_formatter.formatters["text/html"].for_type(pyarrow.Table, lambda found: "own")
assert html(lego_ray.catalog.list_merges(catalog)) == "own"
"""


def test_tables_are_tables_in_a_notebook(tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo", 1)
    lego_ray.merge(
        tmp_path / "zoo",
        rank=2,
        output=tmp_path / "m<b>",
        name="m",
        catalog=tmp_path / "catalog",
        runner="inline",
    )
    words = [sys.executable, "-c", CODE, str(tmp_path / "catalog"), str(SHOWN)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_outside_of_ipython_nothing_is_loaded(tmp_path: Path) -> None:
    code = "import sys, lego_ray.catalog; assert not {'IPython', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bar_is_a_widget_where_widgets_are() -> None:
    """The extra `notebook` brings what tqdm needs."""
    import ipywidgets
    import tqdm.notebook

    assert issubclass(vars(tqdm.notebook)["IProgress"], ipywidgets.Widget)
