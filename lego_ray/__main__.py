"""`lego-ray` and `python -m lego_ray`: the command line, which ^C ends quietly from the start."""

import gc
import sys

from lego_ray.cli.startup import stop_quietly


def main() -> None:
    """Loads the command line and runs it; see `cli.main.main`."""
    stop_quietly()
    from lego_ray.cli.main import main as run

    try:
        run()
    finally:
        # Python searches all objects for cycles as it ends, and torch makes 200,000 objects. DuckDB
        # needs this search: without it, DuckDB prints a line for each of its objects that remains.
        if "duckdb" not in sys.modules:
            gc.freeze()


if __name__ == "__main__":
    main()
