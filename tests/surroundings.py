"""What a test must not see of the machine it runs on: the user's home, keys, tokens and settings.

A test that wants one of these sets it, for itself or for the processes it starts.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path

# Settings of the product, of what it reads adapters with, and of what it runs on.
PREFIXES = (
    *("AWS_", "GOOGLE_", "AZURE_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_"),
    *("LEGO_RAY_", "RAY_", "XDG_", "BOTO_"),
)
# How long lines are and whether they are colored, which proxy is asked, which time zone `now` is in.
NAMES = (
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PY_COLORS"),
    *("TZ", "MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC", "PYTHONBREAKPOINT", "CURL_CA_BUNDLE"),
    *("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "SOURCE_DATE_EPOCH", "NETRC"),
    *("CEPH_CONF", "CEPH_ARGS", "BASH_ENV", "ENV"),
    # Every process that a test starts would compile the package again, half a second of CPU each.
    "PYTHONDONTWRITEBYTECODE",
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY")
UMASK = 0o022
# Ray gives its workers the least of a processor that others want; here the others are tests.
RAY_SETTINGS = {"RAY_worker_niceness": "0"}
# Several processes at a time take the cores; threads of one that wait for the others' would spin.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

# What Ray, our own settings for it, torch and Polars put into the environment when they are imported,
# and Ray when a test that shares one begins it.
SET_BY_OTHERS = (
    *("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_CLIENT_MODE"),
    *("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_prestart_worker_first_driver"),
    *("RAY_AUTH_MODE", "PYTHONBREAKPOINT"),
    *("TORCHINDUCTOR_CACHE_DIR", "_RJEM_MALLOC_CONF"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)


def without_ray() -> dict[str, str]:
    """The environment, for a process that is to set up or find its Ray by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | RAY_SETTINGS


def shut_out(environ: MutableMapping[str, str]) -> Callable[[], None]:
    """Takes them out of an environment for good, and gives it a home that is empty.

    Returns:
        What deletes that home.
    """
    unwanted = {*NAMES, *PROXIES, *(name.lower() for name in PROXIES)}
    for name in list(environ):
        if name in unwanted or name.startswith(PREFIXES):
            del environ[name]
    home = Path(tempfile.mkdtemp(prefix="lego-home-"))
    environ["HOME"] = str(home)
    # What C programs print, and dates; UTF-8 by Python in any case.
    environ["LC_ALL"] = "C.UTF-8"
    os.umask(UMASK)
    sys.dont_write_bytecode = False
    _hear_signals()
    return lambda: shutil.rmtree(home, ignore_errors=True)


def _hear_signals() -> None:
    """Lets processes that tests start be interrupted, where a shell made its background jobs deaf."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            heard = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, heard)
