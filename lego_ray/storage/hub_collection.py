"""A collection on the Hugging Face Hub: a list of models and other things that someone keeps there."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.errors import ObjectNotFound
from lego_ray.storage.hub_client import hub_api
from lego_ray.storage.hub_errors import hub_errors
from lego_ray.storage.hub_patience import patiently


@dataclass(frozen=True, slots=True)
class HubCollection:
    """What a collection lists.

    Attributes:
        models: `owner/name` of each model repository, in the collection's order.
        others: Kind and id of everything else in it, such as `("dataset", "owner/name")`.
    """

    models: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


def read_collection(slug: str, where: str) -> HubCollection:
    """Asks the Hub what a collection lists now; collections have no revisions.

    Args:
        slug: `owner/slug`, as its page's address ends.
        where: The collection's URI, for errors.

    Raises:
        ObjectNotFound: If there is no such collection, or it is private.
        StorageError: If the Hub does not answer.
    """
    try:
        with hub_errors(where):
            items = patiently(lambda: hub_api().get_collection(slug), where=where).items
    except ObjectNotFound:
        raise ObjectNotFound(
            where,
            "there is no such collection, or it is private",
            "Copy owner and slug from the address of its page, with the digits at its end. Set "
            "HF_TOKEN, or run `hf auth login`, with an account that may read it.",
        ) from None
    return HubCollection(
        models=tuple(dict.fromkeys(each.item_id for each in items if each.item_type == "model")),
        others=tuple((each.item_type, each.item_id) for each in items if each.item_type != "model"),
    )
