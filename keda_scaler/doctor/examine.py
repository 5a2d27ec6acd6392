"""All checks, in order: from the scaler to its sources, and on to what KEDA and the HPA made of it.

A check whose ground another one did not find is skipped, never left out.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from keda_scaler.app import accepts_of, rules_of, servers_of
from keda_scaler.core.trigger import Trigger, parse_trigger
from keda_scaler.core.values import is_address
from keda_scaler.doctor.checks import Check, fail, ok, skipped, some, warn
from keda_scaler.doctor.cluster import check_keda, check_rights, namespaces_read
from keda_scaler.doctor.kubernetes import Cluster, NoClusterError, require_configuration
from keda_scaler.doctor.scaler import check_scaler
from keda_scaler.doctor.sources import (
    Subject,
    check_prometheus,
    check_replicas,
    check_wake_source,
)
from keda_scaler.errors import ScaledObjectError, TriggerError
from keda_scaler.keda.client import Tls, open_channel, sent_metadata
from keda_scaler.keda.report import Verdict, can_wake
from keda_scaler.keda.scaledobject import ScaledObject
from keda_scaler.probe import Options, TlsFiles, ask, channel_to
from keda_scaler.settings import Settings
from keda_scaler.sources.apiserver import Configure, from_surroundings
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.promapi import Prometheus

CHECK_SECONDS = 20.0
"""Longest wait for the next line; each check has limits of its own below that."""

TOTAL_SECONDS = 90.0
"""Longest run. What is left then is skipped."""

_OWN_SETTINGS = (
    "correct the trigger (docs/triggers.md); or, if the scaler allows it, run this with the "
    "scaler's own settings: --config, its flags, its environment"
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is looked at."""

    settings: Settings
    scaled_object: ScaledObject | None = None
    address: str | None = None
    """HOST:PORT of the scaler; None: as the triggers say, else as the settings say."""

    tls: TlsFiles = field(default_factory=TlsFiles)
    configure: Configure | None = None
    """How the API server is found; None: as the scaler finds it."""


async def examine(case: Case) -> AsyncGenerator[Check, None]:
    """Make all checks, and give each as it ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TOTAL_SECONDS
    async with aclosing(_all(case)) as checks:
        while True:
            try:
                async with asyncio.timeout_at(min(loop.time() + CHECK_SECONDS, deadline)):
                    check = await anext(checks, None)
            except TimeoutError:
                then = "what comes after it was not checked; is something overloaded?"
                yield fail("time", "a check did not end in time", then)
                return
            if check is None:
                return
            yield check


async def _all(case: Case) -> AsyncGenerator[Check, None]:
    async for check in _scalers(case):
        yield check
    try:
        await asyncio.to_thread(require_configuration, case.configure)
        no_cluster = None
    except NoClusterError as error:
        no_cluster = str(error)
    configure = case.configure or from_surroundings
    cluster = Cluster(configure)
    directory = ServiceDirectory(configure=configure)
    try:
        async for check in _beyond(case, cluster, directory, no_cluster):
            yield check
    finally:
        await directory.aclose()
        await cluster.aclose()


async def _beyond(
    case: Case, cluster: Cluster, directory: ServiceDirectory, no_cluster: str | None
) -> AsyncGenerator[Check, None]:
    """Check everything but the connection to the scaler."""
    scaled_object = case.scaled_object
    parsed, refused = _triggers(case)
    if no_cluster is not None:
        yield skipped("kubernetes", no_cluster)
    elif scaled_object is None:
        yield await check_rights(cluster, None)
    else:
        namespaces = namespaces_read(scaled_object.namespace, parsed.values())
        yield await check_rights(cluster, namespaces)
    if scaled_object is None:
        async for check in _servers(case.settings):
            yield check
        yield skipped("ScaledObject", "none given: its sources, KEDA and the HPA are not looked at")
        return
    for check in refused:
        yield check
    rules, servers = rules_of(case.settings), servers_of(case.settings)
    namespace, name = scaled_object.namespace, scaled_object.name
    for index, trigger in parsed.items():
        subject = Subject(namespace, name, trigger, rules, servers, directory)
        suffix = f" [{index}]" if len(scaled_object.external_triggers) > 1 else ""
        async for check in _sources(subject, scaled_object, no_cluster):
            yield replace(check, name=check.name + suffix)
    async for check in _made_of_it(cluster, scaled_object, no_cluster):
        yield check
    async for check in _answers(case, scaled_object):
        yield check


async def _made_of_it(
    cluster: Cluster, scaled_object: ScaledObject, no_cluster: str | None
) -> AsyncGenerator[Check, None]:
    if no_cluster is None:
        async for check in check_keda(cluster, scaled_object):
            yield check
    else:
        yield skipped("keda", no_cluster)
        yield skipped("hpa", no_cluster)


async def _servers(settings: Settings) -> AsyncGenerator[Check, None]:
    """Check every Prometheus of the settings."""
    for name, server in servers_of(settings).items():
        prometheus = Prometheus(server)
        try:
            stale_after = Trigger().stale_after
            yield await check_prometheus(prometheus, stale_after, f"prometheus {name}")
        finally:
            prometheus.close()


def _triggers(case: Case) -> tuple[dict[int, Trigger], list[Check]]:
    """Parse the triggers as the scaler does; say which are refused."""
    parsed: dict[int, Trigger] = {}
    refused = []
    for each in case.scaled_object.external_triggers if case.scaled_object else ():
        try:
            parsed[each.index] = parse_trigger(sent_metadata(each), accepts_of(case.settings))
        except TriggerError as error:
            name = f"trigger {each.index}"
            refused.append(fail(name, some(error.problems, 4), _OWN_SETTINGS))
    return parsed, refused


async def _scalers(case: Case) -> AsyncGenerator[Check, None]:
    """Check each scaler that is named."""
    scaled_object = case.scaled_object
    if scaled_object is None:
        address = case.address or _near(case.settings.grpc_address)
        files = case.tls
        tls = files.is_given or case.settings.tls is not None
        credentials = Tls(files.ca, files.certificate, files.key) if tls else None
        async with open_channel(address, credentials) as channel:
            async for check in check_scaler(channel, address, tls=tls):
                yield check
        return
    done = set()
    for trigger in scaled_object.external_triggers:
        address = case.address or trigger.address or ""
        tls = trigger.uses_tls or case.tls.is_given
        if not address:
            says = f"spec.triggers[{trigger.index}].metadata.scalerAddress: missing"
            yield fail("scaler", says, "give it, or --address")
        elif (address, tls) not in done:
            done.add((address, tls))
            async with channel_to(trigger, address, case.tls) as channel:
                async for check in check_scaler(channel, address, tls=tls):
                    yield check


def _near(address: str) -> str:
    """Give where a server that listens on an address can be called on this machine."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in {"0.0.0.0", "[::]"} else address  # noqa: S104


async def _sources(
    subject: Subject, scaled_object: ScaledObject, no_cluster: str | None
) -> AsyncGenerator[Check, None]:
    trigger = subject.trigger
    if no_cluster is not None and trigger.service is not None:
        for name in ("endpoints", "page", "engine", "families"):
            yield skipped(name, no_cluster)
    else:
        async for check in check_replicas(subject):
            yield check
    host = trigger.wake_service
    if no_cluster is not None and host is not None and not is_address(host):
        yield skipped("wake", no_cluster)
        return
    is_deaf = not any(can_wake(each) for each in scaled_object.triggers)
    is_needed = is_deaf and scaled_object.may_sleep
    yield await check_wake_source(subject, is_needed=is_needed)


async def _answers(case: Case, scaled_object: ScaledObject) -> AsyncGenerator[Check, None]:
    """Ask as KEDA does: what all of the above comes to."""
    try:
        report = await ask(scaled_object, Options(case.address, tls=case.tls))
    except ScaledObjectError as error:
        yield skipped("answers", str(error))
        return
    for asked in report.asked:
        says = f"trigger {asked.result.trigger.index}: {asked.verdict}, {asked.why}"
        if asked.verdict is not Verdict.UNKNOWN:
            yield ok("answers", says)
        elif asked.result.is_hold:
            then = "replicas are left alone; the lines above say what is not read"
            yield warn("answers", says, then)
        else:
            yield fail("answers", says, "the lines above say why; `keda-scaler probe` says more")
