"""Certificates of every kind that must not be trusted, and one that may."""

import datetime as dt
import ssl
from pathlib import Path

import trustme

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
TOMORROW = YESTERDAY + dt.timedelta(days=2)


def issue(authority: trustme.CA, kind: str, name: str) -> trustme.LeafCert:
    """Issue a certificate for `name` that is good, or bad in one way."""
    match kind:
        case "expired":
            return authority.issue_cert(name, not_after=YESTERDAY)
        case "not yet valid":
            return authority.issue_cert(name, not_before=TOMORROW)
        case "wrong name":
            return authority.issue_cert("elsewhere.example")
        case "wrong authority":
            return trustme.CA().issue_cert(name)
        case _:
            return authority.issue_cert(name)


def write(leaf: trustme.LeafCert, folder: Path) -> None:
    """Write `tls.crt` and `tls.key`, as a Secret of Kubernetes has them."""
    leaf.private_key_pem.write_to_path(folder / "tls.key")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    (folder / "tls.crt").write_bytes(chain)


def context_of(leaf: trustme.LeafCert) -> ssl.SSLContext:
    """Make what a server listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context
