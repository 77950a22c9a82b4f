"""The other side of `ChildScorer`: a process that imports a function once and calls it on adapters."""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from queue import SimpleQueue
from typing import Any, NoReturn

from lego_ray.errors import LegoRayError
from lego_ray.scoring.score import Score


def serve() -> NoReturn:
    """Answers requests from stdin on stdout, and ends when stdin does: then its asker has ended."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the function prints must not get into an answer
    told = json.loads(sys.stdin.readline())
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    function: Callable[..., Any] | None = None
    while True:
        request = requests.get()
        try:
            if function is None:
                function = function_of(told["target"])
            answer: dict[str, Any] = {"result": None}
            if "adapter" in request:
                given = call(function, request["adapter"], request["split"], told["settings"])
                answer = {"result": given.as_json() if isinstance(given, Score) else given}
            text = json.dumps(answer)
        except LegoRayError as error:
            text = json.dumps({"failed": str(error)})
        except Exception as error:
            text = json.dumps({"failed": f"{type(error).__name__}: {error}"})
        out.write(text + "\n")
        out.flush()


def _listen(requests: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)  # in the middle of a call too: nobody waits for its score


def function_of(target: str) -> Callable[..., Any]:
    """The function that a text such as `module:function` names.

    Raises:
        TypeError: If it names something that cannot be called.
    """
    module, _, name = target.partition(":")
    found: object = getattr(import_module(module), name)
    if not callable(found):
        raise TypeError(f"{name} of {module} is not a function")
    return found


def call(
    function: Callable[..., Any], adapter_dir: str, split: str, settings: Mapping[str, Any]
) -> Any:
    """Calls a scoring function: `function(adapter_dir)`, with `split=` if it has such an argument.

    Args:
        function: The function.
        adapter_dir: The adapter's directory.
        split: `choose`, `report` or `all`.
        settings: Further keyword arguments.

    Returns:
        What it returns: a number, a `Score`, or a mapping such as a scoring command prints.
    """
    known = inspect.signature(function).parameters.values()
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known)
    more = {"split": split} if takes_any or any(each.name == "split" for each in known) else {}
    return function(adapter_dir, **more, **settings)
