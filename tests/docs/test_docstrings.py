"""Docstrings of what others call name every argument and error.

Ruff sees to it that there is a docstring. Here: an `Args` section has the arguments there are; in the
rooms that others build on, whatever takes several has one, or says whose it keeps to (``see `X` ``); and
an error raised outright is named. Methods that keep an interface are documented there.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import lego_ray
from lego_ray.formats.output_layout import OutputLayout
from lego_ray.methods.base import MergeMethod
from lego_ray.methods.in_bases import InBases
from lego_ray.methods.of_sum import OfSum
from lego_ray.methods.parted import Parted
from lego_ray.methods.whole import Whole
from lego_ray.storage.base import Store
from tests.docs.pages import ROOT

PACKAGE = ROOT / "lego_ray"
ROOMS = ("numerics", "methods", "formats", "storage", "planning", "catalog")
# Who writes down first what a method of theirs promises: protocols, then the bases that add to them.
PROTOCOLS = [
    each
    for each in (*MergeMethod.__mro__, Store, OutputLayout)
    if each.__module__.startswith("lego_ray")
]
BASES = [*PROTOCOLS, Whole, Parted, OfSum, InBases]
# Errors that Python's own protocols ask for, such as that of a closed file.
PYTHONS = {"AttributeError", "ValueError", "TypeError", "KeyError", "StopIteration"}


@dataclass(frozen=True)
class Documented:
    """A public function or method, as its source has it."""

    where: str
    name: str
    doc: str
    parameters: tuple[str, ...]
    raised: frozenset[str]
    keeps: bool

    @property
    def refers(self) -> bool:
        """Whether its docstring says where the rest stands."""
        return re.search(r"[Ss]ee `", self.doc) is not None

    @property
    def documented(self) -> list[str]:
        """What its `Args` section names."""
        section = re.search(r"^Args:\n((?:    .*\n?|\n(?=    ))*)", self.doc, re.MULTILINE)
        named = re.findall(r"^    (\**\w+): ", section[1], re.MULTILINE) if section else []
        return [name.lstrip("*") for name in named]


def keeps(owner: str, method: str) -> bool:
    """Whether another class than this one says what its method does."""
    first = PROTOCOLS if owner in {each.__name__ for each in BASES} else BASES
    return bool(owner) and any(method in vars(b) for b in first if b.__name__ != owner)


def documented(
    tree: ast.Module | ast.ClassDef, where: str, owner: str = ""
) -> Iterator[Documented]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from documented(node, where, node.name)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            raised = {
                ast.unparse(each.exc.func)
                for each in ast.walk(node)
                if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call)
            }
            yield Documented(
                f"{where}:{node.lineno}",
                node.name,
                ast.get_docstring(node) or "",
                tuple(arg.arg for arg in every if arg and arg.arg not in ("self", "cls")),
                frozenset(name for name in raised if name[0].isupper()),
                keeps(owner, node.name),
            )


def everything() -> list[Documented]:
    found: list[Documented] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] != "cli":  # click's docstrings are its help
            where = str(path.relative_to(ROOT))
            found += documented(ast.parse(path.read_text()), where)
    return found


FOUND = everything()
BUILT_ON = [each for each in FOUND if each.where.split("/")[1] in ROOMS and not each.keeps]


def test_sections_of_arguments_are_true() -> None:
    assert [
        (each.where, each.name, each.documented)
        for each in FOUND
        if each.documented and set(each.documented) != set(each.parameters)
    ] == []


def test_whatever_takes_several_arguments_says_what_they_are() -> None:
    assert [
        (each.where, each.name)
        for each in BUILT_ON
        if len(each.parameters) > 1 and not each.documented and not each.refers
    ] == []


def test_errors_raised_are_named() -> None:
    assert [
        (each.where, each.name, missing)
        for each in BUILT_ON
        if (missing := {e for e in each.raised - PYTHONS if e not in each.doc}) and not each.refers
    ] == []


def test_the_calls_of_the_package_are_documented_whole() -> None:
    for name in set(lego_ray.__all__) - {"catalog"}:
        exported = getattr(lego_ray, name)
        doc = inspect.getdoc(exported) or ""
        is_class = inspect.isclass(exported)
        sections = ("Attributes",) if is_class else ("Args", "Returns", "Raises")
        assert all(f"\n{section}:\n" in doc for section in sections), name


def test_it_sees_what_is_wrong() -> None:
    source = '''
def f(a, b):
    """Does.

    Args:
        a: One.
        c: None there.
    """
    raise InvalidOption("--f", "no")
'''
    [found] = documented(ast.parse(source), "x")
    assert found.documented == ["a", "c"]
    assert found.parameters == ("a", "b")
    assert found.raised == {"InvalidOption"}
