"""The closed family of errors lego-ray raises.

Every error says what is wrong, where, and what to do next, and survives pickling, so one raised on a
Ray worker reaches the user as it was. The class carries the meaning; callers never parse messages.

- `BadInput`: the request cannot be served as given. Nothing was written. Exit status 2.
- `AdapterRefused`: one adapter cannot be merged. The others go on; `--strict` turns it into a failure.
- `StorageError`: a store did not do what was asked.
- `RunFailed`: the job was sound and did not finish. Nothing was published. Exit status 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECRETS = (
    # user:password@ of a URI
    re.compile(r"(?<=://)[^/\s\"'<>]*(?=@)"),
    # the same where the URI was taken for a path, in which two slashes are one
    re.compile(r"(?<=:/)(?!/)[^/\s\"'<>:]*:[^/\s\"'<>]*(?=@)"),
    # what signs a request, in its query or as S3 repeats it in an error
    re.compile(r"(?i)(X-Amz-[\w-]+|AWSAccessKeyId)=[^&\s\"'<>]+"),
    re.compile(r"(?i)(?<=[?&])(Signature|sig|token)=[^&\s\"'<>]+"),
    re.compile(r"(?<=<AWSAccessKeyId>)[^<]*"),
    # keys and tokens by their form
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}\b"),
)


def redacted(text: str) -> str:
    """Text without passwords, signatures, keys and tokens that can be recognized by their form."""
    for pattern in _SECRETS:
        text = pattern.sub("***", text)
    return text


class LegoRayError(Exception):
    """Base of the family.

    Args:
        where: What it is about: a URI, adapter, site, option or table.
        problem: What was found and what was expected, as a sentence without its full stop.
        hint: What to do next, as a full sentence; left out, it is the class's `advice`.
    """

    exit_code = 1
    advice = "Run the same command with --debug, and report what it shows."
    """What to do next where there is nothing better to say."""

    longest: int | None = None
    """Most characters of a problem, where those it is about may choose its length."""

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        # Whatever it quotes, an error is printed, logged, recorded and pickled.
        where, problem = redacted(where), redacted(problem)
        if self.longest is not None and len(problem) > self.longest:
            problem = f"{problem[: self.longest]}..."
        super().__init__(where, problem, hint)
        self.where = where
        self.problem = problem
        self.hint = hint or self.advice

    def __str__(self) -> str:
        return f"{self.what} {self.hint}"

    @property
    def what(self) -> str:
        """What is wrong and where, without what to do next."""
        stop = "" if self.problem.endswith("?") else "."
        return f"{self.where}: {self.problem}{stop}"


class BadInput(LegoRayError):
    """The request cannot be served as given; nothing was written."""

    exit_code = 2
    advice = "`lego-ray COMMAND --help` lists what it accepts."


class InvalidOption(BadInput):
    """An option's value is out of its range, or options contradict each other."""


class NotRecordedYet(InvalidOption):
    """A merge or an adapter is in the catalog now, and was not at the moment that was asked about."""

    advice = "Leave out --at, or give a later time."


class RecipeError(BadInput):
    """A recipe file is not as it must be.

    Args:
        where: The file.
        faults: Everything that is wrong with it, each `path: what`.
    """

    advice = "Correct the file, then run the same command again."

    def __init__(self, where: str, faults: tuple[str, ...]) -> None:
        listed = "\n  ".join(fault.rstrip(".") for fault in faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(where, f"{count}\n  {listed}")
        self.faults = faults

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.faults)


class NoAdaptersFound(BadInput):
    """A source holds no adapter, or none that can be merged."""

    advice = "`lego-ray scan SOURCE...` lists what it finds."


class ScanLimitReached(BadInput):
    """The sources hold more than one scan may list or read; nothing of them was taken."""

    advice = "Name narrower sources, or raise the limit with --scan-limit."


class BaseModelMismatch(BadInput):
    """The adapters of one merge name different base models.

    Args:
        where: An adapter.
        problem: As of any error.
        hint: What to do, as of any error.
        by_base: URIs of the adapters by the base model that they name, where they are known.
    """

    advice = "Take those of one with --only-base, or name the base model with --base-model."

    def __init__(
        self,
        where: str,
        problem: str,
        hint: str = "",
        by_base: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(where, problem, hint)
        self.by_base = dict(by_base or {})  # pickled with the rest of the attributes


class UnusableBase(BadInput):
    """The base model given cannot be used: it is not read, or lacks what an adapter adapts."""

    advice = "Give the base model that the adapter was trained on, with its weights in safetensors."


class LayoutMismatch(BadInput):
    """The adapters of one merge name their sites in ways that do not go together."""

    advice = "Merge those of one layout at a time; --exclude leaves adapters out."


class SiteShapeMismatch(BadInput):
    """Adapters of one merge disagree on a shared site's shape or kind."""

    advice = "Leave one of them out with --exclude."


class OutputExists(BadInput):
    """The output holds something else, and outputs are create-only."""

    advice = "Give another output, or delete the existing one first."


class UnreadableOutput(BadInput):
    """The merged adapter would not load as it is meant in the main reader of its layout."""

    advice = "Leave out with --exclude the adapter that causes it, and merge again."


class MissingPackage(BadInput):
    """What was asked for needs a package that is not installed, or cannot be loaded.

    The hint says how to install it.
    """

    advice = "Install lego-ray again with pip; `pip check` says what is missing."


class UpdateImpossible(BadInput):
    """A merge cannot be updated from what is kept beside it; a full merge can make it."""


class QueryError(BadInput):
    """A catalog query is not valid SQL, or reads what a catalog query may not."""

    advice = "docs/catalog.md lists the tables and columns there are."


class CatalogNotFound(BadInput):
    """There is no catalog table at the URI given."""

    advice = "Check the URI; `scan` and `merge` make a catalog where --catalog says."


class ShapeMismatch(LegoRayError):
    """Tensors handed to a numerical function do not fit together."""


class AdapterRefused(LegoRayError):
    """One adapter cannot be merged; the reason is its message."""

    longest = 4000

    advice = "Export the adapter again, or leave it out with --exclude."


class UnsupportedAdapter(AdapterRefused):
    """The adapter is of a kind that is not an additive, rank-pooled LoRA."""

    advice = "Export it as a plain LoRA, or leave it out with --exclude."


class MalformedAdapter(AdapterRefused):
    """A file of the adapter is damaged, incomplete, or contradicts itself."""

    advice = "Copy or export the adapter again, or leave it out with --exclude."


class RankMismatch(MalformedAdapter):
    """The configured rank of a site and its tensors disagree."""


class NonFiniteWeights(AdapterRefused):
    """A tensor of the adapter holds NaN or infinity; the adapter is quarantined."""

    advice = "Train or export it again, or leave it out with --exclude."


class StorageError(LegoRayError):
    """A store did not do what was asked."""

    advice = "Run the same command again; if it fails again, see the store's own logs."


class ObjectNotFound(StorageError):
    """There is no such object, bucket, repository or directory."""

    exit_code = 2
    advice = "Check the path or URI, and that it is still there."


class AccessDenied(StorageError):
    """Credentials are missing, wrong, or do not allow this."""

    exit_code = 2
    advice = "Check the credentials: boto3's chain for S3, HF_TOKEN or `hf auth login` for the Hub."


class AlreadyExists(StorageError):
    """A create-only put found an object in its place; that object was left as it was."""

    advice = "Give another place, or delete the existing one first."


class StoreUnavailable(StorageError):
    """The store could not be reached, or gave up after bounded retries."""

    exit_code = 2
    advice = "Check the network and the endpoint, then run the same command again."


class NoSpaceLeft(StoreUnavailable):
    """A disk is full, or a quota or a limit on the size of files is reached."""

    exit_code = 1
    advice = "Free space, then run the same command again: finished work is kept."


class UnsafeStore(StorageError):
    """The store accepts create-only puts and ignores them, so it would lose commits in silence."""

    exit_code = 2
    advice = (
        "Write to a store that honors If-None-Match, such as AWS S3, Ceph, MinIO or a local disk."
    )


class UnsupportedUri(StorageError):
    """The URI's scheme or form is not one lego-ray reads or writes."""

    exit_code = 2
    advice = "Give a path, s3://, gs:// or az://bucket/prefix, or hf://owner/name[@revision]."


class ReadOnlyStore(StorageError):
    """The store can be read and not written."""

    exit_code = 2
    advice = "Write to a directory, or to s3://, gs:// or az://bucket/prefix."


class CatalogError(LegoRayError):
    """A catalog table could not be written or read."""

    advice = "`lego-ray catalog check --catalog URI` lists what is damaged."


class NotRecorded(CatalogError):
    """A merge is published, and its rows could not be written to the catalog."""

    advice = "Run the same command again: that records it."


class CatalogVersionMismatch(CatalogError):
    """A catalog table is of another schema version than this release writes; nothing was written."""

    exit_code = 2
    advice = "Run `lego-ray catalog migrate --catalog URI`, or upgrade lego-ray."


class RunFailed(LegoRayError):
    """The job did not finish; nothing was published."""

    advice = "Run the same command again: finished work is kept."


class MergesFailed(RunFailed):
    """Some merges of a library could not be made as asked; the others were."""

    advice = (
        "The reason of each is above. Change their entries in the recipe file and run it again."
    )


class NotEnoughMemory(RunFailed):
    """The machine, or a limit on the process, did not give it the memory it needs."""

    advice = (
        "Lower --memory-budget or --workers, raise the limit (`ulimit -v`, the container's memory), "
        "or run on a machine with more; finished work is kept."
    )


class ClusterTooSmall(RunFailed):
    """The cluster cannot hold a task, and no node came that can."""

    advice = (
        "Add nodes or larger ones, set --memory-budget to what a node has, merge fewer adapters, or "
        "wait longer with --wait; finished work is kept."
    )


class VersionMismatch(RunFailed):
    """A node has another lego-ray or torch than the driver, so its bytes would differ."""

    advice = "Give all nodes the same image or environment; finished work is kept."


class SitesFailed(RunFailed):
    """One or more sites could not be solved."""


class ScoringFailed(RunFailed):
    """A scorer did not give a score for an adapter."""

    longest = 2000
    advice = "Run the scorer by hand on an adapter directory, and see what it prints."


class SourceChanged(RunFailed):
    """A file is not the one that was scanned: it was replaced, rewritten, cut short or deleted since.

    Args:
        where: The file.
        problem: As of any error.
        hint: What to do, as of any error.
        adapter: URI of the adapter it belongs to, where that is known.
    """

    advice = "Run the same command again when nothing writes to the adapter."

    def __init__(self, where: str, problem: str, hint: str = "", adapter: str = "") -> None:
        super().__init__(where, problem, hint)
        self.adapter = adapter  # pickled with the rest of the attributes


class StrictRefusal(RunFailed):
    """`--strict` was given and an adapter was refused."""

    advice = "Fix or exclude the adapter, or leave --strict out."


class VerificationFailed(RunFailed):
    """A merged adapter is not what its manifest says."""

    advice = "Merge again to another output, or copy it again from an undamaged copy."
