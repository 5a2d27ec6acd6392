"""docs/gateways.md is what the tables say."""

from pathlib import Path

import pytest

from keda_scaler.gateways import GATEWAYS, catalogue
from keda_scaler.gateways.gateway import Gateway

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date() -> None:
    """`tools/render-gateways` writes it anew."""
    written = (ROOT / "docs" / "gateways.md").read_text()

    assert written == catalogue.render().rstrip("\n") + "\n", "run tools/render-gateways"


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=lambda gateway: str(gateway.name))
def test_everything_that_is_read_is_in_its_chapter(gateway: Gateway) -> None:
    """With its versions, in the order of preference, and where it is read."""
    chapter = catalogue.render().split(f"## {gateway.title}\n", 1)[1].partition("\n## ")[0]

    places = [chapter.index(f"`{family}") for family in gateway.families if family in chapter]
    assert len(places) == len(gateway.families)
    assert all(f"({family.versions})" in chapter for family in gateway.families.values())
    for group in (gateway.held, gateway.running, *gateway.arrivals):
        found = [chapter.rindex(f"`{family.name}") for family in group]
        assert found == sorted(found)
    assert all(f"`{name}`" in chapter for name in gateway.heartbeats)
    assert f"`wakeFrom: {gateway.name}`; the page is at `{gateway.path}`" in chapter
    assert gateway.notes in chapter
