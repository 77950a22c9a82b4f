"""What the deltalake package needs to reach the bucket boto3 reaches."""

from __future__ import annotations

from lego_ray.errors import AccessDenied
from lego_ray.storage.s3_client import ATTEMPTS, aws_session, s3_client
from lego_ray.storage.s3_errors import s3_errors
from lego_ray.storage.uri import Place, S3Place


def delta_storage_options(place: Place) -> dict[str, str]:
    """Gives deltalake the credentials, region and endpoint that boto3 finds.

    deltalake reads the environment and not the shared config files, profiles or roles that boto3
    knows, so they are resolved here and passed on. Temporary credentials are those of this moment:
    ask again for each table opened, and keep the result out of logs.

    Args:
        place: Of a table or a catalog.

    Returns:
        `storage_options` for `DeltaTable` and `write_deltalake`; empty where it is not on S3.

    Raises:
        AccessDenied: If boto3 finds no credentials.
    """
    if not isinstance(place, S3Place):
        return {}
    where = str(place)
    with s3_errors(where):
        found = aws_session().get_credentials()
        if found is None:
            raise AccessDenied(
                where,
                "boto3 finds no credentials",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role.",
            )
        keys = found.get_frozen_credentials()
        meta = s3_client(None, ATTEMPTS).meta
    region = meta.region_name
    options = {
        "AWS_ACCESS_KEY_ID": keys.access_key or "",
        "AWS_SECRET_ACCESS_KEY": keys.secret_key or "",
        # boto3's name for "none was set", which is not a region to sign for.
        "AWS_REGION": "us-east-1" if region in ("", "aws-global") else region,
        # Commits are PUT with If-None-Match, so that no two writers win the same one.
        "aws_conditional_put": "etag",
    }
    if keys.token:
        options["AWS_SESSION_TOKEN"] = keys.token
    endpoint = meta.endpoint_url
    if not endpoint.split("/")[2].endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    return options
