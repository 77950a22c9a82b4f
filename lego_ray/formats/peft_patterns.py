r"""PEFT's rule for `rank_pattern` and `alpha_pattern`: which entry speaks for a site.

A key matches a site if `(.*\.)?(key)$` does, from the start: so a key is a suffix at a dot, or a
regular expression. The first key that matches, in the order of the file, wins; a key that equals the
site to the letter counts too, even where it does not match as an expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.linear_patterns import TOKEN, linear_matcher
from lego_ray.formats.wrappers import unwrapped_pattern

# The fields that are tables of them.
PATTERNS = ("rank_pattern", "alpha_pattern")

# The paths a backtracking matcher may have to try, at most. An open repeat counts as 64 of them (a
# site name has about that many characters), `?` as 2, a group of m alternatives as m.
MAX_CHOICES = 64**4
OPEN_REPEAT_CHOICES = 64
MAX_PATTERN_CHARS = 2000
# The same over all sites and patterns of an adapter, now by the sites' own lengths. Python's matcher
# makes some 10^9 such steps a second at worst; calling it at all takes as long as 2,000 of them.
MAX_STEPS = 10**10
CALL_STEPS = 2000
MAX_PATTERNS = 20_000

# What to do about a configuration that cannot be right.
FIX = "Correct the file, or save the adapter again with PEFT."
_SIMPLIFY = "Write the sites out in full, or as plain suffixes such as layers.3.self_attn.q_proj."


@dataclass(frozen=True, slots=True)
class SitePattern:
    """One entry: `value` for every site that `expression` matches and no earlier entry does.

    `choices` and `repeats` say how many there are of what a matcher goes back to: alternatives
    multiplied, and open repeats.
    """

    key: str
    expression: re.Pattern[str]
    value: float
    choices: int = 1
    repeats: int = 0

    def steps(self, site: str) -> int:
        """Most paths that matching a site may try."""
        paths: int = len(site) ** self.repeats
        return CALL_STEPS + self.choices * (site.count(".") + 1) * paths


def compile_patterns(
    entries: Mapping[str, float], field: str, where: str
) -> tuple[SitePattern, ...]:
    r"""Compiles a pattern table, refusing expressions that could run for ever.

    Python's matcher backtracks and has no time limit, so one hostile expression could hang a scan.
    Choices inside repeats, too many choices in a row, backreferences and inline flags are refused;
    suffixes, `.*`, `\d+`, `(q|k)_proj` and the like are not.

    Args:
        entries: Key to value, in the order of the file.
        field: `rank_pattern` or `alpha_pattern`, for the error.
        where: The configuration file, for the error.

    Raises:
        MalformedAdapter: If a key is not a regular expression.
        UnsupportedAdapter: If matching a key could take exponential time.
    """
    if len(entries) > MAX_PATTERNS:
        problem = f"{field} has {len(entries)} entries, the limit is {MAX_PATTERNS}"
        raise UnsupportedAdapter(where, problem, _SIMPLIFY)
    out = []
    for written, value in entries.items():
        key = unwrapped_pattern(written)
        costs = _costs(key) if len(key) <= MAX_PATTERN_CHARS else None
        if costs is None:
            problem = f"{field} key {key[:80]!r} could take for ever to match"
            raise UnsupportedAdapter(where, problem, _SIMPLIFY)
        expression = compiled(rf"(.*\.)?({key})$", f"{field} key {key[:80]!r}", where)
        out.append(SitePattern(key, expression, value, *costs))
    return tuple(out)


def compiled(expression: str, name: str, where: str) -> re.Pattern[str]:
    """Compiles an expression of a configuration.

    Args:
        expression: It.
        name: What to call it in the error.
        where: The configuration file, for the error.

    Raises:
        MalformedAdapter: If it is not a regular expression.
    """
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        problem = f"{name} is not a regular expression ({error})"
        raise MalformedAdapter(where, problem, _SIMPLIFY) from None


def is_affordable(expression: str, paths: Collection[str]) -> bool:
    """Whether an expression can be matched with all of these paths, in seconds.

    Args:
        expression: It.
        paths: Modules' paths.
    """
    costs = _costs(expression) if len(expression) <= MAX_PATTERN_CHARS else None
    if costs is None:
        return False
    choices, repeats = costs
    steps: int = choices * max(map(len, paths), default=0) ** repeats
    return len(paths) * (CALL_STEPS + steps) <= MAX_STEPS


def whole_matcher(
    expression: str, name: str, paths: Collection[str], where: str
) -> Callable[[str], object] | None:
    """Whether a whole path matches an expression, as a function whose result is true if it does.

    Args:
        expression: It.
        name: The field that has it, for the error.
        paths: The modules' paths.
        where: The configuration file, for the error.

    Returns:
        The function; None if matching could take too long.

    Raises:
        MalformedAdapter: If it is not a regular expression.
    """
    found = compiled(expression, f"{name} {expression[:80]!r}", where)
    if is_affordable(expression, paths):
        return found.fullmatch
    return linear_matcher(expression, paths)


def check_affordable(
    patterns: tuple[SitePattern, ...], sites: Collection[str], field: str, where: str
) -> None:
    """Passes patterns that all of an adapter's sites can be looked up in, in seconds.

    Args:
        patterns: A table.
        sites: The sites.
        field: `rank_pattern` or `alpha_pattern`, for the error.
        where: The configuration file, for the error.

    Raises:
        UnsupportedAdapter: Otherwise.
    """
    longest = max(sites, key=len, default="")
    dots = max((site.count(".") for site in sites), default=0)
    worst = longest + "." * max(0, dots - longest.count("."))
    if len(sites) * sum(pattern.steps(worst) for pattern in patterns) > MAX_STEPS:
        problem = f"{field} could take for ever to match with the names of {len(sites)} sites"
        raise UnsupportedAdapter(where, problem, _SIMPLIFY)


def lookup(patterns: tuple[SitePattern, ...], site: str) -> float | None:
    """The value of the first pattern that speaks for the site, or None.

    Args:
        patterns: In the order of the configuration.
        site: The module's path, without PEFT's prefix.
    """
    for pattern in patterns:
        if pattern.expression.match(site):
            return pattern.value
    return next((pattern.value for pattern in patterns if pattern.key == site), None)


def disagree(patterns: tuple[SitePattern, ...], site: str) -> bool:
    """Whether patterns that match the site give it several values, so that their order decides.

    PEFT sorts the patterns when it saves, so the order of training may be lost.

    Args:
        patterns: In any order.
        site: The module's path, without PEFT's prefix.
    """
    values = {pattern.value for pattern in patterns if pattern.expression.match(site)}
    return len(values) > 1


def unmatched(patterns: tuple[SitePattern, ...], sites: Collection[str]) -> list[str]:
    """Keys that speak for none of these sites, so that they have no effect.

    Args:
        patterns: In any order.
        sites: Paths of modules, without PEFT's prefix.
    """
    return [
        each.key
        for each in patterns
        if each.key not in sites and not any(map(each.expression.match, sites))
    ]


def exact_key(site: str, sites: Iterable[str]) -> str:
    """A key that speaks for this site and for no other of `sites`.

    The site's own name wherever that will do: readers that know no expressions, older PEFT and
    many scripts among them, look names up as they are. An anchored expression where it will not.

    Args:
        site: The module's path.
        sites: All modules that the adapter has.
    """
    if re.fullmatch(r"[\w.-]+", site):
        expression = re.compile(rf"(.*\.)?({site})$")
        if not any(expression.match(other) for other in sites if other != site):
            return site
    return f"^{re.escape(site)}"


def _costs(key: str) -> tuple[int, int] | None:
    """Choices multiplied, and open repeats.

    None if an open repeat holds a choice, or they multiply past `MAX_CHOICES`.
    """
    choices, repeats = 1, 0
    branches = [1]  # alternatives of each group still open; the outermost is the key itself
    holds = [False]  # whether each of them holds a choice
    closed = False  # whether the group that the last token closed does
    previous = ""
    for token in TOKEN.findall(key):
        is_repeat = token in ("*", "+", "?") or (token[0] == "{" and len(token) > 2)
        if is_repeat and not previous:
            if closed and token != "?":
                return None
            if token in ("*", "+") or "," in token:
                repeats += 1
                holds[-1] = True
            elif token == "?":
                choices *= 2
                holds[-1] = True
        elif token.startswith("("):
            if token[:2] == "(?" and (token.startswith("(?P=") or token[2] not in ":=!<>P"):
                return None  # backreferences, conditions, and flags that change how the rest reads
            branches.append(1)
            holds.append(False)
        elif token == "|":
            branches[-1] += 1
            holds[-1] = True
        elif token[0] == "\\" and token[1:] in "123456789":
            return None
        closed = token == ")" and len(branches) > 1 and holds[-1]
        if token == ")" and len(branches) > 1:
            choices *= branches.pop()
            holds.pop()
            holds[-1] = holds[-1] or closed
        previous = token if is_repeat and not previous else ""
    choices *= branches[0]
    return (choices, repeats) if choices * OPEN_REPEAT_CHOICES**repeats <= MAX_CHOICES else None
