"""`python -m lego_ray`: the command line."""

from lego_ray.cli.main import main

if __name__ == "__main__":
    main()
