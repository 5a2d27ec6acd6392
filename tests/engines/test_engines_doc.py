"""docs/engines.md is what the dialects say."""

from pathlib import Path

import pytest

from keda_scaler.engines import DIALECTS, catalogue
from keda_scaler.engines.dialect import Dialect, families

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date() -> None:
    """`tools/render-engines` writes it anew."""
    written = (ROOT / "docs" / "engines.md").read_text()

    assert written == catalogue.render().rstrip("\n") + "\n", "run tools/render-engines"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.name))
def test_every_family_is_in_its_chapter(dialect: Dialect) -> None:
    """With its versions, in the order of preference, and the link to the chapter is right."""
    page = catalogue.render()
    chapter = page.split(f"## {dialect.title}\n", 1)[1].partition("\n## ")[0]

    for measure in dialect.signals.values():
        for family in families(measure):
            assert f"`{family.name}" in chapter
            assert f"({family.versions}" in chapter
    for signal, histograms in dialect.latencies.items():
        found = [
            chapter.index(f"`{family.name}_bucket", chapter.index(f"| {signal} |"))
            for family in histograms
        ]
        assert found == sorted(found)
    for family in dialect.progress:
        assert f"`{family.name}" in chapter.partition("- Progress: ")[2].partition("\n")[0]
    assert ("- Asleep" in chapter) == (dialect.sleep is not None)
    assert dialect.notes in chapter
    assert f"engine: {dialect.name}`" in chapter
