"""Markdown documents as pages: markup is text, links lead to pages, headings can be linked to."""

from __future__ import annotations

from pathlib import Path

from rsqa_pipeline.evidence.pages import as_page, write_pages
from rsqa_pipeline.lineage.page import page

CARD = """---
tags: [x]
---

# Model <script>alert(1)</script>

[data](#data-sets), [card](models/a/README.md), [history](prov.json)

## Data sets

| rule | version |
|---|---|
| best third <img src=x onerror=alert(1)> of the captions, by score | `0.dir` |
"""


def test_a_document_becomes_a_page_with_its_links() -> None:
    html = as_page(CARD)
    assert "<title>Model &lt;script&gt;" in html and "tags" not in html
    assert "<script" not in html and "<img" not in html and "&lt;img src=x" in html
    assert '<h2 id="data-sets">' in html and 'href="#data-sets"' in html
    assert 'href="models/a/README.html"' in html and 'href="prov.json"' in html
    assert html.count('<div class="rows"') == html.count("</table></div>") == 1
    assert '<td class="text">best third' in html and "<td><code>0.dir" in html


def test_every_document_of_a_folder_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("index.md", "models/README.md"):
        (tmp_path / name).write_text(CARD)
    write_pages(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")} == {
        "index.html",
        "models/README.html",
    }


def test_texts_of_a_lineage_are_escaped_and_a_hash_is_given_whole() -> None:
    rows = [{"id": "a" * 64, "text": '"><script>1</script> a long caption of a few words', "score": float("nan")}]
    html = page("Lineage of <b>", {"rows": "1 & more"}, {"Pairs": rows, "None": []})
    assert "<script" not in html and "<b>" not in html and "1 &amp; more" in html and "<td>–</td>" in html
    assert f'title="{"a" * 64}">{"a" * 16}…' in html and "None" not in html
