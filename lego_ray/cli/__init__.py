"""The command line: parse, call, print. Everything it does is a call in `lego_ray.api`."""
