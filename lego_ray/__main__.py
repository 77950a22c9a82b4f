"""`lego-ray` and `python -m lego_ray`: the command line, which ^C ends quietly from the start."""

from lego_ray.cli.startup import stop_quietly


def main() -> None:
    """Loads the command line and runs it; see `cli.main.main`."""
    stop_quietly()
    from lego_ray.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
