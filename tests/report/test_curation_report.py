"""The page agrees with the tables, is self-contained, and shows missing values as missing."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rsqa_pipeline.report import gallery, provenance
from rsqa_pipeline.report.curation_report import render, run
from rsqa_pipeline.report.downstream import paper_figures
from rsqa_pipeline.report.reading import corpus
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.report.synthetic_run import ASSETS, QUALITY, SETTINGS, SUBSETS, Page, SyntheticRun


class Reader(HTMLParser):
    """Collects texts by ``data-key``, URLs that a browser would fetch or open, unclosed tags and images without alt."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.images_without_alt = 0
        self.open: list[str] = []
        self.key: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[name]) for name in ("src", "href", "srcset", "action") if name in values]
        self.images_without_alt += tag == "img" and not values.get("alt")
        self.key = values.get("data-key")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.key = None

    def handle_data(self, data: str) -> None:
        if self.key is not None:
            self.figures.setdefault(self.key, []).append(data)


@cache
def read(html: str) -> Reader:
    return Reader(html)


def figure(page: Page, key: str) -> str:
    found = set(read(page.html).figures[key])
    assert len(found) == 1, (key, found)
    return found.pop()


def section(page: Page, name: str) -> str:
    return page.html.split(f'<section id="{name}">')[1].split("</section>")[0]


def test_page_fetches_nothing(known: Page) -> None:
    addresses = read(known.html).addresses
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"https?://|<script|@import|url[(]", known.html)


def test_page_is_well_formed_and_every_image_has_alt_text(known: Page) -> None:
    reader = read(known.html)
    assert reader.open == []
    assert reader.images_without_alt == 0


def test_every_block_of_results_names_its_profile(known: Page) -> None:
    for name in ("headline", "preferences", "curation", "gallery", "downstream", "best-of-n", "reinforcement"):
        blocks = section(known, name).count("<table") + section(known, name).count('class="tile"')
        blocks += section(known, name).count('class="plot"') + section(known, name).count('class="gallery"')
        assert section(known, name).count(">profile made-up</span>") == blocks > 0


@pytest.mark.parametrize("family", ["clip", "vlm"])
def test_benchmark_values_equal_the_tables(known: Page, family: str) -> None:
    for row in known.run.results[family]:
        key = f"all/{family}/{row['model']}/{row['task']}/{row['metric']}"
        assert figure(known, key) == f"{100 * row['value']:.1f}"


def test_intervals_are_shown_beside_values(known: Page) -> None:
    cell = section(known, "downstream").split('data-key="clip/all/classification/top_1"')[1].split("</td>")[0]
    assert "50.0 to 60.0" in cell


def test_paper_results_are_shown_beside_ours(known: Page) -> None:
    table = section(known, "downstream")
    for family in ("clip", "vlm"):
        for figures in paper_figures()[family]["rows"].values():
            assert all(f"{value:.2f}</span>" in table for value in figures if value is not None)


def test_symbols_follow_the_paired_intervals(known: Page) -> None:
    """The synthetic differences fall by 6 points per column: first all better, then some, finally all worse."""

    def symbol(key: str) -> str:
        cell = section(known, "downstream").split(f'data-key="{key}"')[1].split("</td>")[0]
        found = re.search('class="mark">(.)<', cell)
        return found.group(1) if found else ""

    assert symbol("vlm/score_model_p30s60/presence/accuracy") == "★"
    assert symbol("vlm/score_model_p30s60/choice/accuracy") == ""
    assert symbol("vlm/all/presence/accuracy") == "▼"
    assert symbol("vlm/all/count/accuracy") == ""
    assert symbol("vlm/all/choice/accuracy") == "▲"
    assert symbol("vlm/rl_policy/choice/accuracy") == "▲"


def test_preference_accuracy_equals_the_file(known: Page) -> None:
    for row in known.run.accuracy:
        key = f"preference/{row['selector']}/{row['family']}/{row['label']}"
        assert figure(known, key) == f"{100 * row['value']:.1f}"
    assert figure(known, "headline/preference/score_model") == "91.2"


def test_true_quality_of_a_subset_is_the_mean_of_what_it_keeps(known: Page) -> None:
    for subset, ids in known.run.kept.items():
        kept = [row for row in known.run.samples["caption"] if row["sample_id"] in ids]
        mean = np.float32([row["true_quality"] for row in kept]).mean()
        assert figure(known, f"subset/{subset}/caption/true_quality") == f"{mean:.2f}"
        assert figure(known, f"subset/{subset}/caption/kept") == str(len(kept))


def test_kept_share_of_a_source(known: Page) -> None:
    corpus = [row for row in known.run.samples["caption"] if row["split"] == "corpus"]
    for source in QUALITY:
        rows = [row for row in corpus if row["source"] == source]
        share = sum(row["sample_id"] in known.run.kept["score_model_p30s60"] for row in rows) / len(rows)
        assert figure(known, f"source/caption/{source}/score_model_p30s60") == f"{100 * share:.1f}"


def test_curation_curve_and_drift_equal_the_files(known: Page) -> None:
    for row in known.run.curation_curve:
        assert figure(known, f"curve/{row['ranking']}/{row['fraction']:g}") == f"{100 * row['value']:.1f}"
    assert figure(known, "curve/clip_score/best") == "30 %" and figure(known, "curve/clip_score/smallest") == "5 %"
    assert "The same words for every image get 56.4 % right" in section(known, "curation")
    for name, value in known.run.drift.as_dict().items():
        if not name.endswith("samples"):
            assert value is not None and figure(known, f"drift/{name}") == f"{value:.3f}"
    assert figure(known, "drift/common_samples") == "200"


def test_gallery_shows_the_extremes_of_the_corpus(known: Page) -> None:
    scores = known.run.scores["pair_scores"]
    captions = [row for row in known.run.samples["caption"] if row["sample_id"] in scores]
    best = max(captions, key=lambda row: scores[row["sample_id"]])
    worst = min(captions, key=lambda row: scores[row["sample_id"]])
    cards = section(known, "gallery").split('<article class="card ')[1:]
    for row, card in ((best, cards[0]), (worst, cards[4])):
        words = row["messages"][0]["content"]
        assert words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in card
        assert f"<dd>{scores[row['sample_id']]:.2f}</dd>" in card
        assert f"<dd>{row['true_quality']:.1f} of 5</dd>" in card
    assert [card.startswith("best") for card in cards[:8]] == [True] * 4 + [False] * 4


def test_best_of_n_and_rewards(known: Page) -> None:
    for row in known.run.curve:
        assert figure(known, f"best_of_n/{row['selector']}/{row['task']}/{row['n']}") == f"{100 * row['value']:.1f}"
    assert figure(known, "rl/rl_policy/difference/reward") == "+0.100"
    assert figure(known, "rl/rl_policy_rules_only/after/format") == "0.452"


def test_quarantine_is_counted_by_reason(known: Page) -> None:
    assert [figure(known, f"quality/image_text_pairs/{part}") for part in ("input", "kept", "quarantined")] == [
        "363",
        "360",
        "3",
    ]
    assert "empty text 1, truncated 2" in section(known, "data-quality")


def test_lineage_lists_every_asset_with_its_folder_version(known: Page) -> None:
    for name, folder in known.run.inputs.items():
        assert figure(known, f"lineage/{name}/data") == folder_version(folder)
    assert "ANOTHER" not in section(known, "lineage")


def test_unknown_values_are_never_zero(unknown: Page) -> None:
    for subset in unknown.run.kept:
        assert figure(unknown, f"subset/{subset}/caption/true_quality") == "not known"
    assert "<dt>true quality</dt><dd>not known</dd>" in section(unknown, "gallery")
    assert "by the truth" not in section(unknown, "preferences").split("<table")[1].split("</table>")[0]


def test_recorded_faults_are_shown_as_quality(unknown: Page) -> None:
    assert figure(unknown, "subset/all/faulty") == "75.0"
    assert figure(unknown, "headline/faulty/all") == "75.0"
    assert "contain a fault that was inserted on purpose" in section(unknown, "headline")


def test_same_inputs_give_the_same_bytes(known: Page, tmp_path: Path) -> None:
    run(known.run.inputs, tmp_path, SETTINGS, SilentLogger(), **ASSETS["curation_report"].options)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == known.html


def test_unreadable_images_are_reported(tmp_path: Path) -> None:
    synthetic = SyntheticRun(tmp_path)
    for picture in (tmp_path / "pictures").iterdir():
        picture.write_bytes(b"")
    shown = gallery.section(synthetic.inputs, corpus(synthetic.inputs, SUBSETS), 2)
    assert "image cannot be read" in render([shown], "made-up", "", "")


def test_scores_by_another_model_are_flagged(tmp_path: Path) -> None:
    synthetic = SyntheticRun(tmp_path)
    weights = synthetic.inputs["score_model"] / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    facts = ASSETS["curation_report"].options["assets"]
    versions = {row[1].text: row[3].text for row in provenance.lineage_table(synthetic.inputs, facts).rows}
    assert "scored by ANOTHER model" in versions["pair_scores"]
    assert "ANOTHER" not in versions["clip_scores"]
