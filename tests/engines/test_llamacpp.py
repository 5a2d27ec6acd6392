"""llama.cpp's dialect: no labels, no latencies, and a cache that newer versions do not report."""

from engine_pages import capture, engine_of, needs_samples, numbers, read, sample
from keda_scaler.core.readings import Lacking, Missing, Value
from keda_scaler.core.signals import LATENCIES, Signal

BUSY = capture("llama.cpp__busy")
OLD = capture("llama.cpp-2025__idle")


def test_a_busy_page() -> None:
    """9 are deferred and 4 run."""
    assert numbers(read(BUSY)) == (9.0, 13.0, None)


def test_cache_usage_of_llamacpp_is_lacking() -> None:
    """It was removed: a page without it is complete, and nothing is missing."""
    assert read(BUSY)[Signal.GPU_MEMORY_PRESSURE] == Lacking(
        "no series of llamacpp:kv_cache_usage_ratio, which not every llama.cpp has"
    )


def test_cache_usage_is_read_where_an_old_version_prints_it() -> None:
    """Lacking is for those that do not; a number that makes no sense is missing, not lacking."""
    assert read(OLD)[Signal.GPU_MEMORY_PRESSURE] == Value(0.5, 7.0)
    percent = OLD.replace("kv_cache_usage_ratio 0.5", "kv_cache_usage_ratio 50")
    assert read(percent)[Signal.GPU_MEMORY_PRESSURE] == Missing(
        "llamacpp:kv_cache_usage_ratio is 50"
    )


def test_a_line_that_is_no_number_does_not_cost_the_page() -> None:
    """Old versions print -nan(ind) before the first decode, in a family that is not read."""
    broken = "llamacpp:n_busy_slots_per_decode -nan(ind)\n"

    assert numbers(read(broken + OLD + broken)) == (0.0, 0.0, 0.5)


def test_latencies_are_lacking() -> None:
    """There are means since the last scrape, which another scraper resets, and no histograms."""
    found = read(BUSY)

    assert all(isinstance(found[signal], Lacking) for signal in LATENCIES)


def test_a_model_has_no_effect_and_both_spellings_are_read() -> None:
    """The page does not say which model it is of."""
    renamed = BUSY.replace("llamacpp:", "llamacpp_")

    assert numbers(read(renamed, model="anything")) == numbers(read(BUSY))


@needs_samples
def test_a_page_that_others_composed() -> None:
    """Idle, and without cache usage."""
    assert engine_of(sample("llamacpp-current")) == "llama.cpp"
    assert numbers(read(sample("llamacpp-current"))) == (0.0, 0.0, None)
