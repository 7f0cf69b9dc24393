"""The page agrees with the tables, is self-contained, and shows missing values as missing."""

from __future__ import annotations

import io
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape
from matplotlib.colors import to_rgb
from rich.console import Console

from rsqa_pipeline import plots
from rsqa_pipeline.report import gallery, provenance
from rsqa_pipeline.report.best_of_n import flag_text
from rsqa_pipeline.report.console import DOWNSTREAM, print_results
from rsqa_pipeline.report.curation_report import TEMPLATES, render, run
from rsqa_pipeline.report.downstream import paper_figures, tally, verdict
from rsqa_pipeline.report.reading import corpus
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.report.synthetic_run import ASSETS, DEMO, QUALITY, SETTINGS, SUBSETS, Page, SyntheticRun, make_page


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
    assert symbol("vlm/all/count/accuracy") == "≈"
    assert symbol("vlm/rl_policy/count/accuracy") == "", "never compared, so not called equal"
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
        key = f"{row['selector']}/{row['task']}/{row['n']}"
        assert figure(known, f"best_of_n/{key}") == f"{100 * row['value']:.1f}"
        if row["n"] > 1 and row["selector"] not in ("random", "oracle"):
            assert figure(known, f"best_of_n/gap/{key}") == f"{100 * row['gap_share']:.1f}"
        assert figure(known, f"best_of_n/kl/{row['task']}/{row['n']}") == f"{row['kl']:.2f}"
        assert figure(known, f"best_of_n/tokens/{row['task']}/{row['n']}") == f"{row['tokens']:.1f}"
    assert figure(known, "rl/rl_policy/difference/reward") == "+0.100"
    assert figure(known, "rl/rl_policy_rules_only/after/format") == "0.452"


def test_best_of_n_shows_what_more_answers_do(known: Page) -> None:
    expected = {
        "score_model": "saturated from N = 8",
        "clip_score": "still changes at N = 16; over-optimised from N = 4",
        "mean_log_probability": "still changes at N = 16",
        "majority_vote": "still changes at N = 16",
        "random": "–",
    }
    for selector, flags in expected.items():
        assert figure(known, f"best_of_n/flags/{selector}/all_tasks") == flags
    assert figure(known, "best_of_n/gap_at_largest/score_model/all_tasks") == "50.0"
    assert figure(known, "best_of_n/selector_tokens/score_model/all_tasks") == "24.0"
    assert figure(known, "best_of_n/selector_tokens/majority_vote/all_tasks") == "0.0"
    text = section(known, "best-of-n")
    assert "The VLM of score model gives N answers" in text
    assert "16 answers to an item take 56.0 generated tokens" in text and "1.84 nats (KL)" in text
    assert text.count("ROUGE-L, %") >= 2 and "best_of_n/majority_vote/caption" not in text


def test_too_few_counts_leave_saturation_unknown() -> None:
    row = {"from_n": 1, "to_n": 3, "saturated": None, "over_optimised": None}
    assert flag_text([row]) == flag_text([]) == "not known"


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


def test_first_screen_has_the_verdict_the_base_and_rl(known: Page) -> None:
    summary = section(known, "headline")
    verdict, rl = summary.index('class="verdict"'), summary.index("RL with the score model as reward")
    assert verdict < rl < summary.index("<table") < summary.index('class="tile"')
    assert "the held-out reward changes by +0.100 (+0.050 to +0.150)" in summary
    for row in summary.split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]:
        models = re.findall(r'data-key="headline/\w+/(\w+)/', row)
        assert models[:2] == ["score_model_p30s60", "base"]


def test_the_main_subset_comes_first_of_the_sources_columns(known: Page) -> None:
    rows = re.findall(r'data-key="source/caption/expert/(\w+)"', section(known, "curation"))
    assert rows[0] == "score_model_p30s60"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(None, None, "not compared"), (-0.1, 0.1, "no clear difference"), (0.1, 0.2, "better"), (-0.2, -0.1, "worse")],
)
def test_verdict_of_a_comparison(low: float | None, high: float | None, said: str) -> None:
    row = {"task": "count", "metric": "accuracy", "model": "a", "baseline": "b", "low": low, "high": high}
    assert verdict(row) == said
    assert tally("vlm", [row], "a", "b").total() == (said != "not compared")
    assert tally("vlm", [row], "a", "c").total() == 0


def test_plots_are_readable_in_dark_mode() -> None:
    """The style's filter, computed as CSS Filter Effects defines it: lines and text stand out from the dark card."""
    style = (TEMPLATES / "style.jinja").read_text(encoding="utf-8")
    dark = style.split("@media (prefers-color-scheme: dark)")[2]
    found = re.search(r"filter: invert\((\.\d+)\) hue-rotate\(180deg\)", dark)
    assert found is not None
    amount = float(found.group(1))
    luma = np.array([0.213, 0.715, 0.072])
    half_turn = 2 * np.tile(luma, (3, 1)) - np.eye(3)

    def contrast(colour: str, filtered: bool) -> float:
        light = []
        for parts in (np.array(to_rgb(colour)), np.ones(3)):
            seen = np.clip(half_turn @ (parts * (1 - 2 * amount) + amount), 0, 1) if filtered else parts
            linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
            light.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
        return max(light) / min(light)

    assert contrast("#20242b", True) >= 7
    for name, colour in {**plots.COLOURS, "dropped": plots.DROPPED}.items():
        assert contrast(colour, True) >= min(3.0, contrast(colour, False)), name


HOSTILE = "a_$b <script>x</script> [/red] [bold] **c**"


def test_names_and_captions_that_hold_markup_are_shown_as_text(tmp_path: Path) -> None:
    synthetic = SyntheticRun(tmp_path / "data" / "made-up")
    for name in ("image_text_pairs", "instruction_samples"):
        path = synthetic.inputs[name] / "samples.parquet"
        table = pq.read_table(path)
        sources = [HOSTILE] * len(table)
        messages = [[{"role": "assistant", "content": HOSTILE}]] * len(table)
        for column, values in (("source", sources), ("messages", messages)):
            field = table.schema.field(column)
            table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
        pq.write_table(table, path)
    rules = dict(SETTINGS.curated_subsets.subsets)
    rules["all"] = rules["all"].model_copy(update={"label": HOSTILE})
    subsets = SETTINGS.curated_subsets.model_copy(update={"subsets": rules})
    settings = SETTINGS.model_copy(update={"curated_subsets": subsets, "description": HOSTILE})
    run(synthetic.inputs, tmp_path, settings, SilentLogger(), **ASSETS["curation_report"].options)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count(str(escape(HOSTILE))) > 8


def printed(synthetic: SyntheticRun, monkeypatch: pytest.MonkeyPatch, **changes: object) -> str:
    """What `rsqa run` prints of a synthetic run whose folder is ``data/demo`` of an empty checkout."""
    monkeypatch.chdir(synthetic.root.parent.parent)
    console = Console(width=400, record=True, file=io.StringIO())
    print_results(DEMO.model_copy(update=changes), console)
    return console.export_text()


def test_terminal_and_page_give_the_same_figures_and_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page(tmp_path, folder="data/demo")
    text = printed(page.run, monkeypatch)

    def of_page(key: str) -> tuple[str, ...]:
        cell = page.html.split(f'data-key="{key}"')[1].split("</td>")[0].replace("−", "-").replace("+", "")
        return tuple(re.findall(r"-?\d+\.\d+", cell))

    def of_terminal(table: str, scale: int, digits: int, *cells: str) -> tuple[str, ...]:
        """The figures of the first row below ``table`` that has these cells in order, after the first block's name."""
        wanted = r"\s+".join(re.escape(cell) for cell in cells) + r"\s+(-?\d.*)"
        figures = re.search(wanted, text.split(table)[1])
        assert figures is not None, (table, cells)
        found = re.findall(r"-?\d+\.\d+", figures.group(1))
        return tuple(f"{scale * float(number):.{digits}f}" for number in found)

    subset = "score_model_p30s60"
    quality = [f"subset/{subset}/{kind}/true_quality" for kind in ("caption", "instruction")]
    vote = "best_of_n/majority_vote/all_tasks/16"
    pairs = [
        (of_terminal("true quality", 1, 2, "score model"), of_page(quality[0]) + of_page(quality[1])),
        (
            of_terminal("held-out preference", 100, 1, "score_model", "judge"),
            of_page("preference/score_model/all/judge"),
        ),
        *(
            (of_terminal(title, 100, 1, "score model"), of_page(f"all/{key}"))
            for title, key in (
                ("CLIP zero-shot top-1", f"clip/{subset}/classification/top_1"),
                ("CLIP image-text R@1", f"clip/{subset}/retrieval/image_to_text_r1"),
                ("VLM answers", f"vlm/{subset}/all_tasks/accuracy"),
            )
        ),
        (
            of_terminal("majority_vote", 100, 1, "16"),
            of_page(vote) + of_page(vote.replace("/majority", "/gap/majority")),
        ),
        *(
            (of_terminal("reward on held-out", 1, 3, moment), of_page(f"rl/rl_policy/{moment}/reward"))
            for moment in ("before", "after", "difference")
        ),
    ]
    assert all(len(shown) in (3, 6) and shown == expected for shown, expected in pairs), pairs


def test_markup_is_text_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic = SyntheticRun(tmp_path / "data/demo")
    rules = dict(DEMO.curated_subsets.subsets)
    rules["all"] = rules["all"].model_copy(update={"label": HOSTILE})
    subsets = DEMO.curated_subsets.model_copy(update={"subsets": rules})
    text = printed(synthetic, monkeypatch, curated_subsets=subsets, description=HOSTILE)
    assert text.count(HOSTILE) == 1 + 1 + len(DOWNSTREAM) - 1  # description; quality; results but for ROUGE-L
