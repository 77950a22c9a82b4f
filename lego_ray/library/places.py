"""Where a library's merges and its catalog go, each place read once out of its recipe file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import fspath

from lego_ray.errors import InvalidOption
from lego_ray.planning.arguments import Uri, output_place
from lego_ray.planning.recipe_file import LibraryRecipe, MergeEntry
from lego_ray.sources.expand import expanded
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPlaces:
    """The places of a library.

    Attributes:
        catalog: Its catalog, or None for none.
        output: What its merges go below, each by its name, unless their entries say; None if all say.
        own: Where the merges of entries go that say so, by name.
    """

    catalog: Place | None
    output: Place | None
    own: Mapping[str, Place]

    @property
    def outputs(self) -> list[Place]:
        """The library's output, and those that entries have of their own."""
        return [*([self.output] if self.output else []), *self.own.values()]

    def of_entry(self, entry: MergeEntry) -> Place:
        """Where the merge of an entry goes, or what its groups' merges go below.

        Raises:
            InvalidOption: If neither the entry nor the library has an output.
        """
        name = entry.recipe.name
        if name in self.own:
            return self.own[name]
        if self.output is None:
            raise InvalidOption(
                "--output",
                f"merge {name} has no output, and neither has the library",
                "Give --output, or `output:` in the recipe file.",
            )
        return self.output if entry.groups else self.output.join(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPlaces(LibraryPlaces):
    """The places of a library that is refreshed, which has a catalog and an output."""

    catalog: Place
    output: Place


def read_places(library: LibraryRecipe) -> LibraryPlaces:
    """Reads the places of a library.

    Args:
        library: The library, with the catalog and the output that the call names, if it does.

    Raises:
        UnsupportedUri: If one is no URI.
    """
    return LibraryPlaces(
        catalog=parse_uri(library.catalog) if library.catalog else None,
        output=parse_uri(library.output) if library.output else None,
        own=_own(library),
    )


def places_to_refresh(
    library: LibraryRecipe, output: Uri | None, catalog: Uri | None
) -> RefreshPlaces:
    """Reads the places of a library that is refreshed.

    Args:
        library: The library.
        output: Where it is, in place of the library's own output.
        catalog: Where it is recorded, in place of the library's own catalog.

    Raises:
        InvalidOption: If it has no output or no catalog, or an output lies in a source.
        ReadOnlyStore: If its output is on the Hub.
        UnsupportedUri: If a place is no URI.
    """
    where = library.output if output is None else fspath(output)
    recorded = library.catalog if catalog is None else fspath(catalog)
    for option, value in (("--output", where), ("--catalog", recorded)):
        if not value:
            key = option.lstrip("-")
            raise InvalidOption(
                option,
                "a library that is refreshed needs one",
                f"Give {option}, or `{key}:` in the recipe file.",
            )
    places = RefreshPlaces(
        output=output_place(where),
        catalog=parse_uri(recorded),
        own=_own(library),
    )
    words = {str(places.output): places.output}
    words |= {each.output: places.own[each.recipe.name] for each in library.entries if each.output}
    for word, place in words.items():
        for source in expanded(library.sources).places:
            if place.is_inside(parse_uri(str(source))):
                raise InvalidOption(
                    "--output",
                    f"{word} lies in the source {source}, so each refresh would read the merges of "
                    "the one before as adapters",
                    "Choose an output beside the sources.",
                )
    return places


def _own(library: LibraryRecipe) -> Mapping[str, Place]:
    return {each.recipe.name: parse_uri(each.output) for each in library.entries if each.output}
