"""The command line: parse, call, print. Everything it does is a call in `execution.api`."""
