"""What looks like a secret in a manifest, and so is never repeated. Pure."""

import re

_SECRET_KEY = re.compile(
    r"passw(or)?d|secret|token|api_?key|credential|private_?key|client_?key|authorization",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@\s]+@|\bBearer +\S|\beyJ[\w-]{8,}\.[\w-]{8,}\."
    r"|\b(sk|hf|ghp|xox[bp])[-_][A-Za-z0-9]{16,}|\bAKIA[A-Z0-9]{16}\b"
)


def is_secret(key: str, value: str) -> bool:
    """Whether a value looks like one, or is under a name of one."""
    return bool(_SECRET_KEY.search(key) or _SECRET_VALUE.search(value))
