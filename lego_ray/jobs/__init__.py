"""Entry points of Ray jobs, which are in the wheel: each runs one command on the cluster it is in."""
