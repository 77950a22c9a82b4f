"""What to do about a refusal, by the code that a server gives for it."""

from __future__ import annotations

NO_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role, and "
    "AWS_ENDPOINT_URL for a server other than AWS. A bucket of another account, a public one that is "
    "read anonymously, or one that takes only encrypted objects (`sse`) needs separate settings in "
    "lego-ray.toml."
)
CERTIFICATE = (
    "If the server's certificate is of a private authority, set AWS_CA_BUNDLE to a PEM file with the "
    "authority's certificate."
)
ANOTHER_ANSWERS = (
    "What answers is not an S3 server: a proxy's own page, or another address. Check AWS_ENDPOINT_URL, "
    "HTTP_PROXY, HTTPS_PROXY and NO_PROXY, then start again."
)
CONFIGURATION = (
    "Fix this setting in the environment, or in the files that AWS_CONFIG_FILE and "
    "AWS_SHARED_CREDENTIALS_FILE name (~/.aws/config, ~/.aws/credentials), then start again."
)
PROXY = "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY, then start again."
CHECKSUMS = "Set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
REGION = "Set AWS_REGION to the bucket's region."
CREATE_ONLY = (
    "This server may not know create-only writes (If-None-Match on PUT), which lego-ray needs. If it "
    f"is a checksum that it does not know: {CHECKSUMS}. Otherwise give an output and a catalog on "
    "another server or on disk."
)
_CLOCK = "Set this machine's clock, for example with NTP, then start again."
_EXPIRED = "Get new credentials (with SSO: `aws sso login`), then start again."
_FULL = "Free some space or raise the quota, then start again: finished work is kept."
_KEY = "Check that the KMS key of the bucket is enabled, in the bucket's region, and may be used."
_VERSIONED = (
    "If the bucket is versioned, the object's latest version may be a delete marker; "
    "otherwise the server does not allow this request."
)
_LOCKED = (
    "The bucket keeps its objects from deletion. Wait until the lock ends, or use another bucket."
)

_BY_CODE = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "InvalidObjectState": (
        "The object is in an archive storage class such as Glacier. Restore it, or copy it to another "
        "class, then start again."
    ),
    "SignatureDoesNotMatch": (
        "Check AWS_SECRET_ACCESS_KEY and the region; a proxy that changes requests also causes this. "
        + NO_CREDENTIALS
    ),
    "MissingContentLength": f"{CHECKSUMS}, then start again.",
    "NotImplemented": f"The server does not know a header. {CHECKSUMS} if it is one of a checksum.",
    "XAmzContentSHA256Mismatch": "Something between here and the server changes requests: a proxy?",
    "BadDigest": "Something between here and the server changes requests: a proxy?",
    "MethodNotAllowed": _VERSIONED,
    "ObjectLocked": _LOCKED,
    "InvalidRetentionPeriod": _LOCKED,
    "PermanentRedirect": REGION,
    "TemporaryRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "InvalidRegion": REGION,
    "AllAccessDisabled": "The account or the bucket is closed. Ask its owner.",
    "AccountProblem": "The account has a problem, such as an unpaid bill. Ask its owner.",
    "KMSInvalidStateException": _KEY,
    **dict.fromkeys(("QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull"), _FULL),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"), _EXPIRED
    ),
}
# What the sentence of a denial speaks of, and what to do then; the first that is found counts.
_BY_WORD = (
    (
        "requester pays",
        "Set `requester_pays = true` for the bucket in lego-ray.toml: you then pay for the requests.",
    ),
    (
        "kms:",
        "Allow the KMS actions kms:Decrypt, to read, and kms:GenerateDataKey, to write, on the key.",
    ),
    ("mfa", "The bucket's policy asks for multi-factor authentication. Ask its owner."),
    ("object lock", _LOCKED),
    ("worm", _LOCKED),
    (
        "not authorized to perform",
        "Allow that action to the user or role, or use other credentials.",
    ),
)


def hint_for(code: str, message: str, status: int) -> str:
    """What to do about a refusal; empty if nothing particular is known.

    Args:
        code: The server's word for it.
        message: The server's sentence.
        status: The HTTP status.
    """
    if code.startswith("KMS."):
        return _KEY
    if found := _BY_CODE.get(code):
        return found
    if status == 407:
        return PROXY
    if status in (401, 403):
        said = message.lower()
        return next((hint for word, hint in _BY_WORD if word in said), NO_CREDENTIALS)
    if status == 411:
        return _BY_CODE["MissingContentLength"]
    if status == 501:
        return _BY_CODE["NotImplemented"]
    return ""
