"""Words: numbers of what targets say of themselves, for people; on the page and by `explain`."""

from keda_scaler.core import told
from keda_scaler.core.signals import LATENCIES, RATIOS


def plain(text: str) -> str:
    """Keep a text that others wrote from steering a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def unit(signal: str) -> str:
    """Name the unit of a signal."""
    return "ratio" if signal in RATIOS else "seconds" if signal in LATENCIES else "requests"


def duration(seconds: float | None) -> str:
    """Write a duration in at most two units: `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d`."""
    if seconds is None:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if 600 <= whole < 3600:
        return f"{whole // 60} min"
    for size, name, smaller, small_name in _UNITS:
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"


_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def quantity(number: float | None, unit_name: str) -> str:
    """Write a number with its unit; requests have none."""
    if number is None:
        return "unknown"
    if unit_name == "ratio":
        return f"{number * 100:.3g}%"
    if unit_name == "seconds":
        return f"{number:.3g} s"
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def to_zero(target: told.Summary) -> str:
    """Write how long until a target is idle, or why that is not known."""
    if target.seconds_to_zero is None:
        return f"{target.seconds_to_zero_missing}"
    return "idle" if target.seconds_to_zero == 0 else duration(target.seconds_to_zero)


def replicas_text(target: told.Summary) -> str:
    """Write how many replicas there are, and how many are wanted."""
    listed = "unknown" if target.replicas_listed is None else f"{target.replicas_listed}"
    return f"{target.replicas_answering} of {listed} answer, {target.replicas_wanted} wanted"


def unanswered(target: told.Summary) -> str | None:
    """Name the first metric for which KEDA gets an error although the state is known."""
    broken = (each for each in target.signals if each.missing is not None and not each.held)
    first = next(broken, None)
    return first.signal if first is not None and target.state != "unknown" else None


def condition(replica: told.Replica) -> str:
    """Write what a replica is."""
    words = []
    if replica.stuck:
        words.append("stuck")
    words.append("leaving" if replica.terminating else "ready" if replica.ready else "loading")
    return ", ".join([*words, replica.engine or "engine unknown"])


def reading(read: told.Reading) -> str:
    """Write one signal of one replica: its value and age, and what is missing."""
    if read.value is None:
        return f"{read.missing}"
    text = f"{quantity(read.value, unit(read.signal))}, {duration(read.age_seconds)} ago"
    return f"{text} ({read.missing})" if read.missing else text


def asks(signal: told.Signal) -> str:
    """Write what a signal asks for, or why that is not known."""
    if signal.asks_for_replicas is None:
        return f"{signal.missing}"
    note = f"; {signal.note}" if signal.note else ""
    return f"asks for {signal.asks_for_replicas:.3g}{note}"
