from hypothesis import settings

pytest_plugins = ["tests.s3_server", "tests.browser", "tests.local_ray"]

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
