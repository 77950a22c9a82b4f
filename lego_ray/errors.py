"""The closed family of errors lego-ray raises.

Every error says what is wrong, where, and what to do next, and survives pickling, so one raised on a
Ray worker reaches the user as it was. The class carries the meaning; callers never parse messages.

- `BadInput`: the request cannot be served as given. Nothing was written. Exit status 2.
- `AdapterRefused`: one adapter cannot be merged. The others go on; `--strict` turns it into a failure.
- `StorageError`: a store did not do what was asked.
- `RunFailed`: the job was sound and did not finish. Nothing was published. Exit status 1.
"""

from __future__ import annotations


class LegoRayError(Exception):
    """Base of the family.

    Args:
        where: What it is about: a URI, adapter, site, option or table.
        problem: What was found and what was expected, as a sentence without its full stop.
        hint: What to do next, as a full sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(where, problem, hint)
        self.where = where
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}."
        return f"{text} {self.hint}" if self.hint else text


class BadInput(LegoRayError):
    """The request cannot be served as given; nothing was written."""

    exit_code = 2


class InvalidOption(BadInput):
    """An option's value is out of its range, or options contradict each other."""


class RecipeError(BadInput):
    """A recipe file is not as it must be.

    Args:
        where: The file.
        faults: Everything that is wrong with it, each `path: what`.
    """

    def __init__(self, where: str, faults: tuple[str, ...]) -> None:
        listed = "\n  ".join(fault.rstrip(".") for fault in faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(where, f"{count}\n  {listed}")
        self.faults = faults

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.faults)


class NoAdaptersFound(BadInput):
    """A source holds no adapter, or none that can be merged."""


class BaseModelMismatch(BadInput):
    """The adapters of one merge name different base models."""


class LayoutMismatch(BadInput):
    """The adapters of one merge name their sites in ways that do not go together."""


class SiteShapeMismatch(BadInput):
    """Adapters of one merge disagree on a shared site's shape or kind."""


class OutputExists(BadInput):
    """The output holds something else, and outputs are create-only."""


class MissingPackage(BadInput):
    """What was asked for needs a package that is not installed; the hint says which extra has it."""


class QueryError(BadInput):
    """A catalog query is not valid SQL, or reads what a catalog query may not."""


class CatalogNotFound(BadInput):
    """There is no catalog table at the URI given."""


class ShapeMismatch(LegoRayError):
    """Tensors handed to a numerical function do not fit together."""


class AdapterRefused(LegoRayError):
    """One adapter cannot be merged; the reason is its message."""


class UnsupportedAdapter(AdapterRefused):
    """The adapter is of a kind that is not an additive, rank-pooled LoRA."""


class MalformedAdapter(AdapterRefused):
    """A file of the adapter is damaged, incomplete, or contradicts itself."""


class RankMismatch(MalformedAdapter):
    """The configured rank of a site and its tensors disagree."""


class NonFiniteWeights(AdapterRefused):
    """A tensor of the adapter holds NaN or infinity; the adapter is quarantined."""


class StorageError(LegoRayError):
    """A store did not do what was asked."""


class ObjectNotFound(StorageError):
    """There is no such object, bucket, repository or directory."""

    exit_code = 2


class AccessDenied(StorageError):
    """Credentials are missing, wrong, or do not allow this."""

    exit_code = 2


class AlreadyExists(StorageError):
    """A create-only put found an object in its place; that object was left as it was."""


class StoreUnavailable(StorageError):
    """The store could not be reached, or gave up after bounded retries."""

    exit_code = 2


class UnsafeStore(StorageError):
    """The store accepts create-only puts and ignores them, so it would lose commits in silence."""

    exit_code = 2


class UnsupportedUri(StorageError):
    """The URI's scheme or form is not one lego-ray reads or writes."""

    exit_code = 2


class ReadOnlyStore(StorageError):
    """The store can be read and not written."""

    exit_code = 2


class CatalogError(LegoRayError):
    """A catalog table could not be written or read."""


class CatalogVersionMismatch(CatalogError):
    """A catalog table is of another schema version than this release writes; nothing was written."""

    exit_code = 2


class RunFailed(LegoRayError):
    """The job did not finish; nothing was published."""


class SitesFailed(RunFailed):
    """One or more sites could not be solved."""


class StrictRefusal(RunFailed):
    """`--strict` was given and an adapter was refused."""


class VerificationFailed(RunFailed):
    """A merged adapter is not what its manifest says."""
