"""Writes the site of a catalog: data, the program that shows them, and the index last."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lego_ray.catalog.tables import Catalog
from lego_ray.reporting.site.adapters import adapter_details, adapter_list
from lego_ray.reporting.site.files import INDEX, START, SiteFiles
from lego_ray.reporting.site.groups import grouping_pages, trial_pages
from lego_ray.reporting.site.health import Health, adapters_by_status, health_page
from lego_ray.reporting.site.library import Library, read_library
from lego_ray.reporting.site.merges import merge_details, merge_list
from lego_ray.reporting.site.pages import ASSETS, ROWS, named, page, shown, text
from lego_ray.reporting.site.record import SiteRecord
from lego_ray.reporting.style import DARK, LIGHT

# In the order in which they must run; see `vendor/LICENSES.txt` for the libraries.
LIBRARIES = ("preact.min.umd.js", "hooks.umd.js", "htm.umd.js", "dagre.min.js")
PROGRAM = (
    *("load.js", "route.js", "parts.js", "graph.js", "adapters.js", "merges.js"),
    *("groups.js", "overview.js", "main.js"),
)


def write_site(catalog: Catalog, files: SiteFiles, health: Health) -> SiteRecord:
    """Writes a site.

    The same catalog in the same state gives the same bytes, and then nothing is written again.

    Args:
        catalog: Which catalog.
        files: Where to.
        health: What is known of the catalog's health.

    Returns:
        What was written.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        OutputExists: If a file of others has the name of one of the site's.
        RunFailed: If another process wrote the site at the same time.
    """
    library = read_library(catalog)
    keys: list[str] = []
    adapters, facets = adapter_list(library)
    keys += files.put_all(adapters)
    n_adapter_lists = len(keys)
    details = files.put_all(adapter_details(library))
    merges = files.put_all(merge_list(library))
    merge_files = files.put_all(merge_details(library))
    grouped, n_groupings = grouping_pages(library)
    groupings = files.put_all(grouped)
    trials, columns = trial_pages(library)
    trial_files = files.put_all(trials)
    keys += [*details, *merges, *merge_files, *groupings, *trial_files]
    keys.append(files.put(health_page(library, health)))
    n_trials = None if library.trials is None else library.trials.num_rows
    about = {
        "catalog": shown(library.uri),
        "latest": _latest(library),
        "rows": ROWS,
        "files": {key.split("/")[1].split(".")[0]: key for key in keys},
        "adapters": {
            "n": library.adapters.num_rows,
            "lists": n_adapter_lists,
            "details": len(details),
            "status": adapters_by_status(library),
            "facets": facets.as_json(),
        },
        "merges": {
            "n": len(library.merges),
            "names": len({row["name"] for row in library.merges.values()}),
            "lists": len(merges),
            "details": len(merge_files),
        },
        "groupings": {
            "n": n_groupings,
            "lists": -(-n_groupings // ROWS),
            "details": len(groupings) - -(-n_groupings // ROWS),
        },
        "trials": None
        if n_trials is None
        else {"n": n_trials, "lists": len(trial_files), "columns": columns},
        "health": {
            "ok": None if health.check is None else health.check["ok"],
            "problems": None if health.check is None else len(health.check["problems"]),
        },
    }
    index = _index(
        title=shown(library.uri),
        style=files.put(named(ASSETS, "style", "css", _style())),
        program=files.put(named(ASSETS, "program", "js", _program())),
        licenses=files.put(named(ASSETS, "licenses", "txt", _asset("vendor/LICENSES.txt"))),
        site=files.put(page("site", text(about))),
    )
    removed = files.finish(index)
    store = files.store
    return SiteRecord(
        output=store.uri,
        index=str(store.place.join(INDEX)),
        catalog=library.uri,
        adapters=library.adapters.num_rows,
        merges=len(library.merges),
        groupings=n_groupings,
        trials=n_trials,
        problems=None if health.check is None else len(health.check["problems"]),
        files=len(files),
        bytes=files.n_bytes,
        written=files.n_written,
        removed=removed,
        warnings=tuple(health.notes),
    )


def _latest(library: Library) -> str | None:
    """When the newest merge was published; None if there is none."""
    newest = next(iter(library.merges.values()), None)
    found: str | None = None if newest is None else shown(newest["created_at"])
    return found


def _index(**parts: Any) -> bytes:
    environment = Environment(
        loader=PackageLoader("lego_ray.reporting.site", "app"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    rendered = environment.get_template("index.html").render(start=Markup(START), **parts)
    return rendered.encode("utf-8", "replace")


def _style() -> bytes:
    """The style sheet, with the colors of the reports by day and by night."""

    def colors(theme: dict[str, str]) -> str:
        return " ".join(f"--{name}: {color};" for name, color in theme.items())

    root = (
        f":root {{ color-scheme: light dark; {colors(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {colors(DARK)} }} }}\n"
    )
    return root.encode() + _asset("app/style.css")


def _program() -> bytes:
    """The libraries and the program as one script, without their notes for debuggers."""
    parts = [*(f"vendor/{name}" for name in LIBRARIES), *(f"app/{name}" for name in PROGRAM)]
    lines = (line for part in parts for line in _asset(part).splitlines())
    return (
        b"\n".join(line for line in lines if not line.startswith(b"//# sourceMappingURL=")) + b"\n"
    )


def _asset(path: str) -> bytes:
    return resources.files("lego_ray.reporting.site").joinpath(path).read_bytes()
