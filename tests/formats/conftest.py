"""Hypothesis on shared machines: examples are judged by their outcome, not by how long they take."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
