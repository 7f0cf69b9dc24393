"""The curation stages from the source tables to ``ids.parquet`` and ``rule.json``."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.curated_subsets.corpus import read_corpus
from rsqa_pipeline.curated_subsets.scoring import corpus_scores
from rsqa_pipeline.curated_subsets.scoring.sealed_table import write_sealed
from rsqa_pipeline.curated_subsets.selection import subset
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.materialization.materialize import materialize
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import Corruption, SourceFile, load_profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, SCORED_SAMPLE, read_table, sample_id, write_table
from rsqa_pipeline.source_pairs import image_text_pairs, instruction_samples
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tiny_models.architecture import new_clip, new_clip_image_processor, train_clip_tokenizer
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings as source_settings
from tests.source_pairs.generated import write_karpathy

SUBSETS = ("all", "random_p30s60", "clip_score_p30s60", "score_model_p30s60")


@pytest.fixture(scope="module")
def settings(project_root):
    return load_profile(str(project_root / "configs/profiles/demo.yaml"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """20 captions and 10 questions of the corpus, 5 of another split, one missing image, and a random CLIP."""
    root = tmp_path_factory.mktemp("curation")
    folders = {n: root / n for n in ("image_text_pairs", "instruction_samples", "base_models", "pair_scores")}
    for folder in folders.values():
        folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for index in range(35):
        file = root / f"{index}.png"
        if index != 3:
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)
        messages = [{"role": "assistant", "content": f"{index} ships"}]
        if index >= 25:
            messages = [{"role": "user", "content": "how many ships are there?"}, *messages]
        rows.append(
            {"sample_id": sample_id(str(index), messages), "image_id": str(index), "image": str(file)}
            | {"messages": messages, "task": "caption", "source": f"writer {index % 2}"}
            | {"split": "preference" if 20 <= index < 25 else "corpus", "true_quality": 1 + index % 5}
        )
    write_table(folders["image_text_pairs"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows[:25])
    write_table(folders["instruction_samples"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows[25:])
    tokenizer = train_clip_tokenizer(["how many ships are there?"] * 4)
    new_clip(tokenizer, image_size=32, seed=0).save_pretrained(folders["base_models"] / "clip")
    tokenizer.save_pretrained(folders["base_models"] / "clip")
    new_clip_image_processor(32).save_pretrained(folders["base_models"] / "clip")
    version = weights_version(folders["base_models"] / "clip")
    (folders["base_models"] / "clip.json").write_text(json.dumps({"path": "clip", "version": version}))
    # The scores of the score model in this test are the true quality.
    truths = [
        {**row, "score": row["true_quality"], "model_version": "judge"} for row in rows if row["split"] == "corpus"
    ]
    write_table(folders["pair_scores"] / "scores.parquet", SCORED_SAMPLE, truths)
    return folders


@pytest.fixture(scope="module")
def clip_scores(inputs, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("clip") / "clip_scores"
    out.mkdir()
    with contextlib.chdir(out.parent):  # its state is in the current folder
        return out, corpus_scores.run_clip(inputs, out, settings, SilentLogger())


RUN_CLIP = """
import json, sys
from pathlib import Path
from rsqa_pipeline.curated_subsets.scoring import corpus_scores
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.tracking.run_logger import SilentLogger
settings = load_profile(sys.argv[1])
curation = settings.curated_subsets.model_copy(update={"shard_rows": 2})
inputs = {name: Path(path) for name, path in json.loads(sys.argv[2]).items()}
corpus_scores.run_clip(inputs, Path("out"), settings.model_copy(update={"curated_subsets": curation}), SilentLogger())
"""


def test_killed_stage_resumes_from_its_finished_shards(inputs, settings, clip_scores, tmp_path, monkeypatch):
    """A score changed by hand in a finished shard is in the final table: the shard was not scored again."""
    profile = str(Path("configs/profiles/demo.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "rsqa_pipeline").symlink_to(Path(corpus_scores.__file__).parents[2])  # the profile's models and corpus
    (tmp_path / "data").symlink_to(Path(profile).parents[2] / "data")
    names = json.dumps({name: str(folder) for name, folder in inputs.items()})
    command = [sys.executable, "-c", RUN_CLIP, profile, names]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shards = ".rsqa/demo/scores/clip_scores/*/scores.shards/*.scores.parquet"
    while running.poll() is None and len(list(tmp_path.glob(shards))) < 3:
        time.sleep(0.002)
    running.kill()
    assert running.wait() == -9
    finished = sorted(tmp_path.glob(shards))
    assert 3 <= len(finished) < 15 and not list((tmp_path / "out").iterdir())
    marked = pq.read_table(finished[0])
    write_sealed(finished[0], marked.schema, [row | {"score": 0.5} for row in marked.to_pylist()])
    curation = settings.curated_subsets.model_copy(update={"shard_rows": 2, "batch_size": 1})
    changed = settings.model_copy(update={"curated_subsets": curation})
    corpus_scores.run_clip(inputs, tmp_path / "out", changed, SilentLogger())
    found, undisturbed = read_table(tmp_path / "out" / "scores.parquet"), read_table(clip_scores[0] / "scores.parquet")
    assert [row["score"] for row in found[:2]] == [0.5, 0.5]
    assert [row["sample_id"] for row in found] == [row["sample_id"] for row in undisturbed]
    assert [row["score"] for row in found[2:]] == pytest.approx([row["score"] for row in undisturbed[2:]], abs=1e-5)
    assert not list(tmp_path.glob(shards))
    quarantine = read_table(tmp_path / "out" / "quarantine.parquet")
    assert quarantine == read_table(clip_scores[0] / "quarantine.parquet")


def test_force_scores_again_and_leaves_the_caches_of_others(inputs, settings, tmp_path, monkeypatch):
    """A forged score, sealed again, is what only a new computation can undo; a changed byte is found by the seal."""
    monkeypatch.chdir(tmp_path)
    asset = assets_of(settings)["clip_scores"]
    folders = {name: inputs[name] for name in asset.inputs}

    def make(force=False):
        made = materialize(settings, asset, folders, SilentLogger(), force=force)
        assert not made.reused
        shutil.rmtree(made.folder)
        return made.manifest.data_version

    true = make()
    table = next(settings.score_cache("clip_scores").rglob("scores.parquet"))
    others = [settings.score_cache("pair_scores") / "scores.parquet", settings.state / "replies/answers.jsonl"]
    for file in others:
        file.parent.mkdir(parents=True)
        file.write_text("kept")
    forged = pq.read_table(table)
    write_sealed(table, forged.schema, [row | {"score": 0.5} for row in forged.to_pylist()])
    assert make() != true
    assert make(force=True) == true
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert make() == true
    assert [file.read_text() for file in others] == ["kept", "kept"]


def test_clip_scores_cover_the_corpus_and_quarantine_the_missing_image(clip_scores, inputs):
    out, metrics = clip_scores
    scores, faults = read_table(out / "scores.parquet"), read_table(out / "quarantine.parquet")
    assert (metrics["input_rows"], metrics["kept_rows"], metrics["quarantined_rows"]) == (30, 29, 1)
    assert metrics["quarantined/missing_image"] == 1
    assert len(scores) == 29 and len(faults) == 1
    assert {row["model_version"] for row in scores} == {weights_version(inputs["base_models"] / "clip")}
    assert all(-1 <= row["score"] <= 1 for row in scores)
    assert (out / "plots" / "score_histogram.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def subsets(inputs, clip_scores, settings, tmp_path_factory):
    """Output folder and metrics of each subset."""
    outputs = {}
    for name in SUBSETS:
        out = tmp_path_factory.mktemp("subsets") / f"subset_{name}"
        out.mkdir()
        folders = {**inputs, "clip_scores": clip_scores[0]}
        outputs[name] = out, subset.run(folders, out, settings, SilentLogger(), subset=name)
    return outputs


def test_subset_consists_of_ids_and_the_rule(subsets, inputs):
    out, metrics = subsets["score_model_p30s60"]
    ids = read_table(out / "ids.parquet")
    assert [row["kind"] for row in ids].count("caption") == 6  # 30 % of 20
    assert [row["kind"] for row in ids].count("instruction") == 6  # 60 % of 10
    rule = json.loads((out / "rule.json").read_text())
    assert rule["subset"] == "score_model_p30s60" and rule["selector"] == "score_model"
    assert (rule["caption_fraction"], rule["instruction_fraction"]) == (0.3, 0.6)
    assert rule["model_version"] == "judge"
    assert rule["kept"] == {"caption": 6, "instruction": 6}
    assert rule["dropped"] == {"caption": 14, "instruction": 4}
    assert rule["without_score"] == {"caption": 0, "instruction": 0}
    assert set(rule["corpus_version"]) == {"image_text_pairs", "instruction_samples"}
    # Of 20 captions four have true quality 5, four 4; the best six are four 5 and two 4.
    assert metrics["true_quality_captions"] == pytest.approx((4 * 5 + 2 * 4) / 6)
    assert metrics["true_quality_known_captions"] == 6
    assert (out / "plots" / "kept_by_source.png").is_file()


def test_subsets_of_the_same_fraction_have_the_same_size(subsets):
    sizes = {name: len(read_table(out / "ids.parquet")) for name, (out, _) in subsets.items()}
    assert sizes == {"all": 30, "random_p30s60": 12, "clip_score_p30s60": 12, "score_model_p30s60": 12}


def test_dropped_samples_are_explained_and_shares_have_intervals(subsets):
    for name, (out, metrics) in subsets.items():
        explained = read_table(out / "explained.parquet")
        kept = {row["sample_id"] for row in read_table(out / "ids.parquet")}
        assert len(explained) == metrics["dropped_rows"] and not kept & {row["key"] for row in explained}
        shares = json.loads((out / "shares.json").read_text())
        writers = [row for row in shares if row["by"] == "source" and row["kind"] == "caption"]
        assert sum(row["kept"] for row in writers) == metrics["kept_captions"]
        assert all(row["low"] <= row["share"] <= row["high"] for row in shares)
        reasons = {"random_p30s60": {"not_drawn"}, "all": set(), "score_model_p30s60": {"outside_top"}}
        assert {row["reason"] for row in explained} == reasons.get(name, {"outside_top", "no_score"})


def test_sample_without_a_clip_score_is_reported_and_not_kept(subsets, inputs, clip_scores):
    out, metrics = subsets["clip_score_p30s60"]
    lost = read_table(clip_scores[0] / "quarantine.parquet")[0]["sample_id"]
    assert json.loads((out / "rule.json").read_text())["without_score"] == {"caption": 1, "instruction": 0}
    assert metrics["without_score_rows"] == 1
    assert lost not in {row["sample_id"] for row in read_table(out / "ids.parquet")}
    assert lost in {row["sample_id"] for row in read_table(subsets["all"][0] / "ids.parquet")}


def test_only_ranking_selectors_have_a_model_version(subsets):
    versions = {n: json.loads((out / "rule.json").read_text())["model_version"] for n, (out, _) in subsets.items()}
    assert versions["all"] is None and versions["random_p30s60"] is None
    assert versions["clip_score_p30s60"] and versions["clip_score_p30s60"] != versions["score_model_p30s60"]


def test_scores_of_two_models_in_one_table_are_refused(inputs, clip_scores, settings, tmp_path):
    rows = read_table(clip_scores[0] / "scores.parquet")
    rows[0]["model_version"] = "another"
    write_table(tmp_path / "mixed" / "scores.parquet", SCORED_SAMPLE, rows)
    with pytest.raises(DataError, match="needs the scores of one model, found 2"):
        folders = {**inputs, "clip_scores": tmp_path / "mixed"}
        subset.run(folders, tmp_path, settings, SilentLogger(), subset="clip_score_p30s60")


def with_rule(settings, name, rule):
    """The profile with one more subset."""
    subsets = {**settings.curated_subsets.subsets, name: rule}
    curation = settings.curated_subsets.model_copy(update={"subsets": subsets})
    return settings.model_copy(update={"curated_subsets": curation})


def test_an_oracle_keeps_what_is_truly_best(inputs, clip_scores, settings, tmp_path):
    """The score model of this test knows the truth, so both keep samples of the same quality."""
    profile = with_rule(settings, "oracle", SubsetRule(selector="oracle", caption_fraction=0.3))
    folders = {**inputs, "clip_scores": clip_scores[0]}
    metrics = subset.run(folders, tmp_path, profile, SilentLogger(), subset="oracle")
    assert metrics["true_quality_captions"] == pytest.approx((4 * 5 + 2 * 4) / 6)
    assert json.loads((tmp_path / "rule.json").read_text())["model_version"] is None


def test_an_oracle_knows_the_recorded_faults(settings, tmp_path):
    """As in the profile rsicd, where the right texts are as many as what is kept: 30 % of the captions, 60 % of the
    answers."""
    write_karpathy(tmp_path, {"train": 90, "test": 6})
    habits = Corruption(share=0.7, sources=["class_swap", "count_change", "vague", "wrong_image"])
    source = source_settings(tmp_path, habits, instruction_samples=90)
    answers = {**source.source_pairs.instructions.model_dump(), "corruption": {"share": 0.4, "sources": ["class_swap"]}}
    faulty = {"instructions": SourceFile.model_validate(answers)}
    source.source_pairs = source.source_pairs.model_copy(update=faulty)
    tables = ("image_text_pairs", "instruction_samples", "pair_scores", "clip_scores")
    folders = {name: tmp_path / name for name in tables}
    image_text_pairs.run({}, folders["image_text_pairs"], source, SilentLogger())
    instruction_samples.run({}, folders["instruction_samples"], source, SilentLogger())
    scores = [{**row, "score": 0.0, "model_version": "none"} for row in read_corpus(folders)]
    for name in ("pair_scores", "clip_scores"):
        write_table(folders[name] / "scores.parquet", SCORED_SAMPLE, scores)
    rule = SubsetRule(selector="oracle", caption_fraction=0.3, instruction_fraction=0.6)
    metrics = subset.run(
        folders, tmp_path / "out", with_rule(settings, "oracle", rule), SilentLogger(), subset="oracle"
    )
    quality = {kind: [r["true_quality"] for r in scores if r["kind"] == kind] for kind in ("caption", "instruction")}
    assert np.mean(quality["caption"]) < 3.5 and np.mean(quality["instruction"]) < 4.5
    assert metrics["true_quality_captions"] > 4.8 and metrics["true_quality_instructions"] > 4.8


def test_an_oracle_without_a_truth_is_refused(inputs, clip_scores, settings, tmp_path):
    profile = with_rule(settings, "oracle", SubsetRule(selector="oracle"))
    folders = {**inputs, "clip_scores": clip_scores[0]}
    for table in ("image_text_pairs", "instruction_samples"):
        rows = [{**row, "true_quality": None} for row in read_table(inputs[table] / "samples.parquet")]
        write_table(tmp_path / table / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
        folders[table] = tmp_path / table
    with pytest.raises(DataError, match="selects by oracle, the true quality, and the source knows it of no sample"):
        subset.run(folders, tmp_path, profile, SilentLogger(), subset="oracle")
