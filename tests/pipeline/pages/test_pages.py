"""Every page that a person sees, of a finished project, in a real Chromium on a phone and a desktop screen."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.pipeline.pages.conftest import Visit, layout_faults
from tests.pipeline.project import Project

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def pages(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of the finished project by name, as the commands write them."""
    out = tmp_path_factory.mktemp("pages")
    project.call("rsqa", "trace", "models:/vlm@champion", "--html", str(out / "trace.html"))
    project.call("rsqa", "trace", "--forward", "guesser", "--html", str(out / "forward.html"))
    project.call("rsqa", "explore", "--profile", "smoke", "--out", str(out / "explorer"))
    project.call("rsqa", "evidence", "--out", str(out / "evidence"))
    return {
        "report": project.data / "report/curation_report/index.html",
        "trace": out / "trace.html",
        "forward trace": out / "forward.html",
        "explorer": out / "explorer/index.html",
        "evidence": out / "evidence/index.html",
        "model card": out / "evidence/models/vlm_all/README.html",
        "data card": out / "evidence/datasets/subset_score_model_p30s60/README.html",
    }


@pytest.mark.parametrize("name", ["report", "trace", "forward trace", "evidence", "model card", "data card"])
def test_a_page_is_whole_and_readable(pages: dict[str, Path], visit: Visit, name: str) -> None:
    page = visit(pages[name].as_uri(), "h1")
    assert page.locator("tbody tr").count() > 3
    assert layout_faults(page) == []
    links = page.eval_on_selector_all("a[href]", "all => all.map(link => link.href)")
    assert links or "trace" in name
    for link in map(urlsplit, links):
        assert link.scheme == "file" and Path(unquote(link.path)).is_file(), link
        if link.fragment:
            assert page.locator(f"[id='{link.fragment}']").count() == 1, link


def test_the_explorer_is_whole_and_readable(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["explorer"].as_uri(), ".row")
    assert layout_faults(page) == []
    page.click(".row >> nth=0")
    page.wait_for_selector("#detail h2, #detail dl")
    assert layout_faults(page) == []
    shown = page.inner_text("#detail")
    for text in page.eval_on_selector_all(".row[aria-selected=true] .text", "all => all.map(e => e.textContent)"):
        whole = all(turn in shown for turn in text.split(" — "))
        assert whole, "a text that the list cuts off stands whole beside it"
