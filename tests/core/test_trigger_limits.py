"""Metadata that means harm: it is refused soon, briefly, and without reaching elsewhere."""

import time

import pytest

from keda_scaler.core.trigger import MAX_PROBLEMS, Accepts, parse_trigger
from keda_scaler.core.values import MAX_URL, SHOWN, without_query
from keda_scaler.errors import TriggerError

PLACE = {"prometheus": "main"}
ACCEPTS = Accepts(prometheus=frozenset({"main"}))
MANY = 8000


def problems(metadata: dict[str, str], namespace: str | None = None) -> tuple[str, ...]:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata, ACCEPTS, namespace)
    return caught.value.problems


@pytest.mark.parametrize(
    "bomb",
    [
        {f"pollSecond{number}": "3" for number in range(MANY)},
        {"x" * SHOWN * number: "3" for number in range(1, 30)},
        {"endpoints": "," * 10**6, "wakeService": "." * 10**6, "port": "1" * 10**6},
        {"endpoints": "http://" + "a" * 10**6, "serverAddress": "//" * 500_000},
        {"selector": "{" * 10**6, "wakeQuery": "(" * 10**6, "path": "/" * 10**6},
        {"targetQueueDepth": "9" * 10**6, "targetGpuMemoryPressure": "%" * 10**6},
        {"wakeFrom": "1" * 10**6, "wakeService": "llama", "wakeQuery": "up"},
        {"model": "\u202e\U0001f4a9" * 10**5, "engine": "\U0001f4a9" * 10**5},
    ],
    ids=["keys", "long keys", "lists", "URLs", "grammars", "numbers", "words", "unicode"],
)
def test_a_bomb_of_metadata_is_refused_soon(bomb: dict[str, str]) -> None:
    """Whatever its size, it takes a fraction of a second and gives an error of a few lines."""
    began = time.process_time()
    found = problems(bomb)

    assert time.process_time() - began < 0.5
    assert len(found) <= MAX_PROBLEMS + 1
    assert all(len(problem) < 500 for problem in found)


def test_of_very_many_problems_the_rest_is_counted() -> None:
    """Nobody takes the list for complete."""
    found = problems(PLACE | {f"key{number:04}": "" for number in range(MANY)})

    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == f"and {MANY - MAX_PROBLEMS} more"
    assert len(problems(PLACE | {f"key{number}": "" for number in range(MAX_PROBLEMS)})) == 20


@pytest.mark.parametrize("key", ["endpoints", "serverAddress", "path", "engine", "prometheus"])
@pytest.mark.parametrize(
    "given",
    [
        "http://user:{}@10.0.0.1/metrics",
        "http://user:a/{}@10.0.0.1/metrics",
        "http://user:a@{}@10.0.0.1/metrics",
        "http://user:a?{}@10.0.0.1/metrics",
        "http://{}@10.0.0.1/metrics",
        "http://10.0.0.1/metrics?token={}",
        "http://10.0.0.1/metrics?a@b={}",
        "http://10.0.0.1/metrics,http://10.0.0.2/metrics?token={}",
        "user:{}@10.0.0.1:9090",
        "metrics?token={}",
    ],
)
def test_no_error_repeats_credentials(key: str, given: str) -> None:
    """Neither those in a URL, however it is misspelt, nor those in its query."""
    assert "hunter2" not in str(problems({"x": "", key: given.format("hunter2")}))


def test_a_url_is_told_without_its_query() -> None:
    """As the name of a replica and in the log."""
    assert without_query("http://a/m?token=hunter2") == "http://a/m?..."
    assert without_query("http://a/m") == "http://a/m"


def test_a_url_has_a_bound() -> None:
    """It names a replica, so it would stand in every answer."""
    (found,) = problems({"endpoints": "http://a/" + "b" * MAX_URL})

    assert f"accepted: URLs of at most {MAX_URL} characters" in found


@pytest.mark.parametrize(
    "query",
    [
        'up{namespace="other"}',
        'up{namespace=""}',
        'up{namespace!="models"}',
        'up{namespace=~"model.+|other", namespace!~"m.*"}',
        'up or vector(0) * scalar({__name__=~".+", namespace="other"})',
        'max_over_time((rate(up{namespace="other"}[5m] offset 1h))[1h:1m])',
        'label_replace(up{namespace="other"}, "namespace", "models", "", "")',
        'absent(up{"namespace"="other"} @ end())',
        '{"up", "namespace"="other"}',
        'up{namespace=~"(?x)models"}',  # of no regular expression that Prometheus has
    ],
)
def test_an_own_query_about_another_namespace_is_refused(query: str) -> None:
    """Wherever in the query: it would be empty for ever, and `or vector(0)` would make it idle."""
    keys = PLACE | {"wakeFrom": "query", "wakeQuery": query}
    found = problems(keys, "models")
    own = problems(PLACE | {"engine": "vllm", "concurrencyQuery": query}, "models")

    assert all(each.startswith("wakeQuery: ") for each in found)
    assert all(each.startswith("concurrencyQuery: ") for each in own)


@pytest.mark.parametrize(
    "query",
    [
        "sum(up)",
        'up{namespace="models"}',
        'up{namespace=~"models|other"}',
        'up{namespace!="other"}',
        'up{job="a"} or label_replace(up, "namespace", "other", "", "")',
    ],
)
def test_an_own_query_may_name_its_own_namespace(query: str) -> None:
    """As may one that names none."""
    parse_trigger(PLACE | {"wakeFrom": "query", "wakeQuery": query}, ACCEPTS, "models")


@pytest.mark.parametrize("namespace", ["..", "a/b", "A", 'a"} or up{x="', "a" * 64, "a\nb"])
def test_a_namespace_that_kubernetes_cannot_have_is_refused(namespace: str) -> None:
    """It becomes part of paths, queries and keys."""
    (found,) = problems(PLACE, namespace)

    assert found.startswith("namespace: got ")


def test_a_trigger_by_itself_is_of_no_namespace() -> None:
    """As those that are read from a file, or asked about without one."""
    assert parse_trigger(PLACE, ACCEPTS) == parse_trigger(PLACE, ACCEPTS, "")
