"""The page in a real Chromium, from file://: no request leaves it, no text becomes markup, marks come back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.explorer.build import write_page
from rsqa_pipeline.explorer.exploration import Exploration, ExploredSample
from rsqa_pipeline.explorer.marks import read_marks
from rsqa_pipeline.preference_data.importers.trl_format import read as read_trl
from rsqa_pipeline.profile.preference_data import PairFile

Open = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    """Opens a folder's page. At the end of the test: no console message, and no request but for files."""
    contexts, messages, requests = [], [], []

    def open_page(folder: Path, width: int = 1440, height: int = 900, scheme: str = "light") -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "index.html").as_uri())
        page.wait_for_selector(".row")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert requests and not [url for url in requests if not url.startswith(("file://", "data:", "blob:"))]


@pytest.fixture
def page_folder(scored: Path, tmp_path: Path) -> Path:
    words = [scored, "--data", scored.with_name("pairs.jsonl"), "--format", "jsonl", "--keep", 0.5]
    done = CliRunner().invoke(app, ["explore", *map(str, words), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    return tmp_path / "page"


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 samples of 400 images, a near-duplicate group of three, quarantined rows and every kind of fault."""
    folder = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    for number in range(400):
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    samples = [
        ExploredSample(
            key=f"sample-{n}",
            state="quarantined" if n % 10 == 9 else "kept" if n % 10 < 3 else "dropped",
            reason=None if n % 10 < 3 else "near_duplicate" if n % 10 == 9 else "outside_top",
            rule="score_model: best 30% of captions",
            score=None if n % 10 == 9 else float(generator.normal()),
            kind="caption",
            source=f"source_{n % 7}",
            scene_class=f"class_with_a_long_name_{n % 30}",
            task="caption",
            fault="near_duplicate" if n % 10 == 9 else "class_swap" if n % 10 == 5 else None,
            image=str(folder / f"{n % 400}.png"),
            messages=[{"role": "assistant", "content": f"text {n} of a sample " + "word " * (n % 40)}],
            group="g" if n in (10, 20, 30) else None,
        )
        for n in range(10_000)
    ]
    write_page(Exploration("A large page", samples, 12_345), folder / "page")
    return folder / "page"


def keys_shown(page: Any) -> list[int]:
    """Row numbers of the rows in the document, from the top."""
    found: list[str] = page.eval_on_selector_all(".row", "rows => rows.map(row => row.id)")
    return [int(name.removeprefix("row-")) for name in found]


def count(page: Any) -> int:
    return int(re.match(r"[\d,]+", page.inner_text("#count"))[0].replace(",", ""))  # type: ignore[index]


def test_texts_are_shown_as_texts(page_folder: Path, opened: Open) -> None:
    page = opened(page_folder)
    page.select_option("#sort", "score up")
    shown = page.eval_on_selector_all(".row .text", "texts => texts.map(text => text.textContent)")
    assert shown[0] == "<script>window.hacked = 1</script> ships"
    assert shown[1] == '"><img src=x onerror="window.hacked = 1"> & &lt;b&gt;'
    assert shown[2] == "\\u202egnihtyna \\u001b[2J\\u0007 control"
    assert shown[3] == "سفينتان في الميناء"
    for _ in range(6):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("window.hacked === undefined && document.querySelectorAll('script').length === 2")
    assert page.locator("#rows img, #detail img").count() == 0


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(large_folder: Path, opened: Open, width: int, scheme: str) -> None:
    page = opened(large_folder, width, 844, scheme)
    page.eval_on_selector("#filters", "box => { box.open = true }")
    wide = "[...document.querySelectorAll('body, header *, #filters, #controls > *, footer, footer > *, #list, .row')]"
    edges = page.evaluate(f"{wide}.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)")
    assert edges == [] and page.evaluate("document.documentElement.scrollWidth") == width
    page.click(".row >> nth=0")
    assert page.is_visible("#detail") and page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(20, 23, 28)")


def test_few_elements_and_few_images_for_many_samples(large_folder: Path, opened: Open) -> None:
    page = opened(large_folder)
    assert count(page) == 10_000 and len(keys_shown(page)) < 30
    assert "10,000 samples (of 12,345, drawn by hash)" in page.inner_text("#summary")
    assert 1 <= page.locator(".thumbnail").count() < 60, "pictures of rows that are not on the screen are not fetched"
    page.keyboard.press("End")
    last = keys_shown(page)[-1]
    assert page.get_attribute(f"#row-{last}", "aria-selected") == "true"
    assert page.get_attribute(f"#row-{last}", "aria-posinset") == "10000" and len(keys_shown(page)) < 30


def scroll_to(page: Any, top: int) -> None:
    """Scrolls the list and waits until the page has drawn it."""
    frames = "requestAnimationFrame(() => requestAnimationFrame(done))"
    page.evaluate(f"new Promise(done => {{ byId('list').scrollTop = {top}; {frames} }})")


def test_a_tap_counts_while_the_list_moves(large_folder: Path, opened: Open) -> None:
    page = opened(large_folder, 390, 844)
    box = page.locator(".row >> nth=1").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    scroll_to(page, 12)
    page.mouse.up()
    assert page.is_visible("#detail")
    assert page.get_attribute("[aria-selected=true]", "aria-posinset") == "2"


def test_scrolled_rows_are_in_order(large_folder: Path, opened: Open) -> None:
    page = opened(large_folder)
    for top in (2_000, 2_300, 50_000, 49_000, 0):
        scroll_to(page, top)
        places = page.eval_on_selector_all(".row", "all => all.map(row => [Number(row.ariaPosInSet), row.offsetTop])")
        start, height = places[0][0], page.evaluate("rowHeight()")
        assert places == [[start + n, (start + n - 1) * height] for n in range(len(places))]
        assert places[0][1] <= top < places[-1][1]


def test_filters_search_and_order(large_folder: Path, opened: Open) -> None:
    page = opened(large_folder)
    page.select_option("#filter-fault", label="class swap (1,000)")
    assert count(page) == 1000
    page.select_option("#filter-source", label="source 3 (1,429)")
    assert count(page) == sum(n % 10 == 5 and n % 7 == 3 for n in range(10_000))
    page.click("#reset")
    page.select_option("#filter-reason", label="near duplicate (1,000)")
    assert count(page) == 1000 and "its image is a near-duplicate" in page.inner_text("#detail")
    page.click("#reset")
    page.fill("#search", "SAMPLE text 4321")
    assert keys_shown(page) == [4321]
    page.click("#reset")
    page.fill("#low", "1")
    page.fill("#high", "1.1")
    chips = page.eval_on_selector_all(".chip.score", "chips => chips.map(chip => chip.textContent)")
    scores = [float(chip) for chip in chips if not chip.startswith("score")]
    assert scores == sorted(scores, reverse=True) and all(1 <= score <= 1.1 for score in scores)
    page.select_option("#sort", "score up")
    assert keys_shown(page)[0] != 0
    page.fill("#search", "no such words")
    page.wait_for_function("document.querySelectorAll('.row').length === 0")
    assert "No sample matches" in page.inner_text("#detail")


def test_the_threshold_shows_what_would_be_kept(page_folder: Path, opened: Open) -> None:
    page = opened(page_folder)  # scores 0 to 27, two rows without; the rule keeps 14
    assert page.inner_text("#outcome") == "keeps 14 of 30 rows (46.7 %); the rule keeps 14"
    page.fill("#threshold", "20")
    assert page.inner_text("#outcome") == "keeps 8 of 30 rows (26.7 %); the rule keeps 14"
    page.select_option("#side", "kept")
    assert sorted(keys_shown(page)) == list(range(20, 28))
    page.select_option("#side", "changed")
    assert sorted(keys_shown(page)) == list(range(14, 20))
    page.select_option("#side", "")
    page.eval_on_selector("#slider", "s => { s.value = 0; s.dispatchEvent(new Event('input', {bubbles: true})) }")
    assert page.inner_text("#outcome") == "keeps 28 of 30 rows (93.3 %); the rule keeps 14"


def test_a_missing_image_is_a_reason(page_folder: Path, opened: Open) -> None:
    page = opened(page_folder)
    page.select_option("#filter-state", label="quarantined (2)")
    assert page.inner_text(".row .thumbnail >> nth=0") == "missing image"
    assert "image_14.png cannot be read" in page.inner_text("#detail")


def test_near_duplicates_are_shown_together(large_folder: Path, page_folder: Path, opened: Open) -> None:
    page = opened(large_folder)
    page.select_option("#filter-group", "yes")
    assert sorted(keys_shown(page)) == [10, 20, 30]
    assert page.locator("#detail .group button").count() == 3
    assert opened(page_folder).locator("#filter-group").count() == 0


def test_marks_by_key_are_kept_undone_downloaded_and_read(page_folder: Path, opened: Open, tmp_path: Path) -> None:
    page = opened(page_folder)
    page.select_option("#sort", "score up")
    page.click(".row >> nth=0")
    for keys in ("k", "5", "ArrowDown", "d", "2", "ArrowDown", "k", "u", "ArrowDown", "3"):
        page.keyboard.press(keys)
    page.keyboard.press("n")
    page.keyboard.type('=1+1, "wrong" k d')
    page.keyboard.press("Escape")
    page.fill("#rater", "ana")
    assert page.inner_text("#progress") == "3 marked, 1 against the rule"
    page.reload()
    page.wait_for_selector(".row")
    assert page.inner_text("#progress") == "3 marked, 1 against the rule"
    files = []
    for kind in ("csv", "jsonl"):
        with page.expect_download() as waiting:
            page.click(f"#{kind}")
        files.append(tmp_path / waiting.value.suggested_filename)
        waiting.value.save_as(files[-1])
    one, other = (read_marks([path]) for path in files)
    assert one == other and one.faults == []
    found = [(mark.key, mark.decision, mark.mark, mark.note, mark.rater) for mark in one.marks]
    note = '=1+1, "wrong" k d'
    assert found == [("r0", "keep", 5, None, "ana"), ("r1", "drop", 2, None, "ana"), ("r3", None, 3, note, "ana")]
    words = [
        "labels",
        "marks",
        str(files[0]),
        "--explorer",
        str(page_folder),
        "--pairs",
        str(tmp_path / "pairs.parquet"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "3 samples marked, 1 against the rule, 0 undecided, 0 not on the page, 0 unreadable" in done.output
    assert "1 pairs in" in done.output
    (pair,) = read_trl(PairFile.model_validate({"format": "trl", "path": str(tmp_path / "pairs.parquet")}))
    assert (pair.chosen, pair.rejected, pair.family) == (
        "<script>window.hacked = 1</script> ships",
        '"><img src=x onerror="window.hacked = 1"> & &lt;b&gt;',
        "caption",
    )
    page.select_option("#marked", "against")
    assert keys_shown(page) == [0]


def test_samples_of_the_page_are_the_samples_of_the_table(page_folder: Path) -> None:
    rows = pq.read_table(page_folder / "samples.parquet").to_pylist()
    data = json.loads((page_folder / "data.js").read_text().removeprefix("const DATA = ").rstrip(";\n"))
    assert [row["key"] for row in rows] == data["columns"]["key"]
