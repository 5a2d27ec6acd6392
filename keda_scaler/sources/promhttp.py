"""One bounded HTTP conversation with a Prometheus.

Rules:

- Whatever goes wrong leaves here as a `SourceError` whose text is short and free of addresses and
  secrets. What an operator needs beyond that is in the exception's notes, for the log.
- Nothing is unbounded: time to connect, time between bytes, bytes. The time of a whole query is
  bounded from outside, with `abort`, because no timeout of a socket sees an answer that drips.
- Redirects are not followed, and nothing of the environment (proxies, `.netrc`) is used.

Importing this module imports the HTTP client, which takes a while; `promapi` does so when needed.
"""

import json
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

from prometheus_api_client import PrometheusConnect
from requests import Response, Session
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import RequestException, SSLError, Timeout

from keda_scaler.core.addresses import AddressRules
from keda_scaler.errors import SourceError, TooMuchError
from keda_scaler.sources.promanswer import Series, decode
from keda_scaler.sources.promdial import CONNECT_SECONDS, Dialer, DialingAdapter, explained

READ_SECONDS = 8.0
"""Between two bytes; less than the ten seconds that a whole query may take."""

MAX_BYTES = 32 * 2**20
"""An answer of 50,000 series, each with a long set of labels, is about 25 MiB."""

MAX_URL_QUERY = 2000
"""Characters of a query that are sent in the URL, where some allow no more than 8 KiB and each
character may take three. Longer ones are posted, which some proxies do not let everybody do."""

_MAX_ERROR_BYTES = 64 * 2**10
_SHOWN = 300

_ERROR_TYPES = frozenset(
    {"bad_data", "canceled", "execution", "internal", "not_found", "timeout", "unavailable"}
)
"""How Prometheus classifies its errors. The text beside it may name addresses and times."""


class Client:
    """A connection to one Prometheus. One thread at a time queries; any thread may abort."""

    def __init__(
        self,
        url: str,
        *,
        rules: AddressRules | None,
        ca_file: Path | None,
        certificate: tuple[str, str] | None,
        authorization: Callable[[], str | None],
    ) -> None:
        """`rules` is None for an address that the settings name; those are trusted."""
        self._dialer = Dialer(rules)
        session = _Session(authorization)
        if ca_file is not None:
            session.verify = str(ca_file)
        session.cert = certificate
        self._connect = PrometheusConnect(url, session=session, retry=0)  # the loop retries
        session.adapters.clear()  # also the one that PrometheusConnect has just mounted
        session.mount("http://", DialingAdapter(self._dialer))
        session.mount("https://", DialingAdapter(self._dialer))

    def query(self, promql: str, params: Mapping[str, str]) -> list[Series]:
        """Ask, and give the series of the answer.

        Raises:
            SourceError: when there is no answer, or none that we accept.

        """
        try:
            result: list[Series] = self._connect.custom_query(promql, params=dict(params))
        except SSLError as error:
            raise explained(
                "the TLS connection to Prometheus failed, or its certificate is not trusted", error
            ) from error
        except Timeout as error:
            raise SourceError("Prometheus did not answer in time") from error
        except RequestsConnectionError as error:
            raise SourceError("the connection to Prometheus broke") from error
        except (RequestException, OSError) as error:
            raise explained("Prometheus cannot be asked", error) from error
        return result

    def abort(self) -> None:
        """End whatever the client waits for. It cannot be used any more."""
        self._dialer.abort()

    def close(self) -> None:
        """Close the connection; not while a query runs."""
        self._connect.close()
        self._dialer.close()


class _Session(Session):
    """A session that bounds what it reads, follows nobody, and ignores the environment."""

    def __init__(self, authorization: Callable[[], str | None]) -> None:
        super().__init__()
        self.trust_env = False  # no proxies, no .netrc, no other CA bundle
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # none are kept
        self._authorization = authorization

    def request(self, method: str, url: str | bytes, **kwargs: Any) -> Response:  # type: ignore[override]  # the base names every keyword
        if len(kwargs["params"]["query"]) > MAX_URL_QUERY:
            method, kwargs["data"] = "POST", kwargs.pop("params")
        headers = {"Accept-Encoding": "identity"}
        if credentials := self._authorization():
            headers["Authorization"] = credentials
        kwargs |= {
            "headers": headers,
            "timeout": (CONNECT_SECONDS, READ_SECONDS),
            "allow_redirects": False,  # it would carry credentials and our judgement elsewhere
            "stream": True,
        }
        response = super().request(method, url, **kwargs)
        try:
            body = _body(response, credentials)
        except BaseException:
            response.close()
            raise
        result = decode(body)
        response.json = lambda **_: {"data": {"result": result}}  # type: ignore[method-assign]  # what the client takes apart
        return response


def _body(response: Response, credentials: str | None) -> bytes:
    if response.status_code != 200:
        raise _refusal(response, credentials)
    body = bytearray()
    for chunk in response.iter_content(64 * 2**10):
        body += chunk
        if len(body) > MAX_BYTES:
            raise TooMuchError(f"Prometheus answered more than {MAX_BYTES >> 20} MiB")
    return bytes(body)


def _refusal(response: Response, credentials: str | None) -> SourceError:
    status = response.status_code
    if 300 <= status < 400:
        return SourceError(f"Prometheus answered {status}, a redirect; redirects are not followed")
    if status in {401, 403}:
        what = "refused the credentials" if credentials else "asked for credentials"
        return SourceError(f"Prometheus {what} ({status})")
    kind, text = _error(response)
    failure = SourceError(f"Prometheus answered {status}" + (f" ({kind})" if kind else ""))
    if text and not (credentials and credentials.split()[-1] in text):  # some repeat the request
        failure.add_note(text[:_SHOWN])
    return failure


def _error(response: Response) -> tuple[str, str]:
    """Read the kind and the text of an error of Prometheus' API; empty where there are none."""
    body = next(response.iter_content(_MAX_ERROR_BYTES), b"")
    try:
        answer = json.loads(body)
        kind, text = str(answer["errorType"]), str(answer["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""
    return (kind if kind in _ERROR_TYPES else ""), text
