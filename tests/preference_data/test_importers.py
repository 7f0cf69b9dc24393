"""External pairs: one row per format, quarantine reasons, one split per image, and the TRL round trip."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data.build_pairs import Pairs
from rsqa_pipeline.preference_data.importers.add_imports import add_imports
from rsqa_pipeline.preference_data.importers.trl_format import write
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.profile.preference_data import PairFile, PairImports
from rsqa_pipeline.records import read_table


def image_bytes(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def import_file(kind, tmp_path, source_format, path, **more):
    """Rows, quarantine reasons and metrics of an import."""
    profile = load_profile("demo")
    file = PairFile(format=source_format, path=str(path), **more)
    changed = profile.preference_data.model_copy(update={"imports": PairImports(**{kind: [file]})})
    out = tmp_path / f"{kind}_out"
    out.mkdir(exist_ok=True)
    pairs = Pairs("test")
    metrics = add_imports(kind, out, profile.model_copy(update={"preference_data": changed}), pairs)
    metrics |= pairs.write(out)
    assert metrics["input_rows"] == sum(v for k, v in metrics.items() if k.startswith("imported_pairs/"))
    return read_table(out / "pairs.parquet"), Counter(row["reason"] for row in pairs.quarantine.rows), metrics


def table(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_rs_pairs_by_name_and_every_bad_row_has_its_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = {"image": "a.png", "chosen": "two white tanks", "rejected": ["some things", "a port"]}
    bad = {
        "missing_image": {"image": "gone.png"},
        "not_an_image": {"image": "broken.png"},
        "no_image": {"image": None},
        "bad_image": {"image": "../a.png"},
        "empty_text": {"rejected": " "},
        "equal_text": {"rejected": "two white tanks"},
        "bad_text": {"chosen": "two \ud800 tanks"},
        "text_too_long": {"chosen": "x" * 50_000, "rejected": "y"},
        "no_text": {"rejected": []},
        "has_question": {"question": "What is this?", "rejected": "a port"},
        "duplicate_pair": {"rejected": "a port"},
    }
    (tmp_path / "p.json").write_text(json.dumps([good, *({**good, "rejected": "z", **b} for b in bad.values())]))
    rows, reasons, _ = import_file("caption", tmp_path, "rs_pairs", tmp_path / "p.json")
    assert [(r["chosen"], r["rejected"]) for r in rows] == [
        ("two white tanks", "some things"), ("two white tanks", "a port"),
    ]  # fmt: skip
    assert reasons == Counter(dict.fromkeys(bad, 1))


@pytest.mark.parametrize(
    ("image", "turns"),
    [
        ({"images": ["two words.png"]}, [("user", "role", "content")]),
        ({"file_name": "two%20words.png"}, [("human", "from", "value")]),
        ({"image": ["two words.png"]}, [("human", "from", "value")]),
    ],
)
def test_importers_read_what_the_readers_of_sources_read(image, turns, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "two words.png")
    ((role, role_key, text_key),) = turns
    answer = "assistant" if role == "user" else "gpt"

    def turn(name, text):
        return {role_key: name, text_key: text}

    row = {**image, "prompt": [turn(role, "<image>\nHow many?")], "chosen": [turn(answer, "2")]}
    (tmp_path / "p.jsonl").write_text(json.dumps({**row, "rejected": [turn(answer, "3")]}))
    rows, reasons, _ = import_file("instruction", tmp_path, "trl", tmp_path / "p.jsonl")
    assert not reasons
    assert [(r["context"], r["chosen"], r["rejected"]) for r in rows] == [
        ([{"role": "user", "content": "How many?"}], "2", "3"),
    ]


@pytest.mark.parametrize("name", ["link.png", "folder/a.png", "a\0.png", "./../x.png"])
def test_a_name_that_leads_out_of_the_image_folder_is_refused(tmp_path, name):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "a.png").write_bytes(image_bytes(1))
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "p.json").write_text(json.dumps([{"image": name, "chosen": "two tanks", "rejected": "a port"}]))
    rows, reasons, _ = import_file("caption", tmp_path, "rs_pairs", inside / "p.json")
    assert rows == [] and reasons == {"bad_image": 1}


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    row = {"image": "a.png", "chosen": "two\u2028tanks", "rejected": "a port"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    rows, _, _ = import_file("caption", tmp_path, "rs_pairs", tmp_path / "p.jsonl")
    assert rows[0]["chosen"] == "two\u2028tanks"


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\x1b[31mred", "a\x85b"])
def test_broken_and_control_characters_in_any_turn_are_a_fault(tmp_path, text):
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    sound = {"image": "a.png", "question": "how many?", "chosen": "two", "rejected": "three"}
    rows = [{**sound, key: f"x{text}"} for key in ("question", "chosen", "rejected")]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    found, reasons, _ = import_file("instruction", tmp_path, "rs_pairs", tmp_path / "p.json")
    assert found == [] and reasons == {"bad_text": 3}


def test_an_image_has_one_split_across_files(tmp_path):
    pictures = [image_bytes(n) for n in range(30)]
    rows = [
        {"image": {"bytes": data, "path": None}, "question": f"q{n}?", "chosen": "yes", "rejected": "no"}
        for data in pictures
        for n in range(3)
    ]
    found, _, _ = import_file("instruction", tmp_path, "rs_pairs", table(tmp_path / "p.parquet", rows))
    (tmp_path / "img").mkdir()
    for n, data in enumerate(pictures):
        (tmp_path / "img" / f"{n}.png").write_bytes(data)
    named = [{"image": f"{n}.png", "chosen": "a port", "rejected": "things"} for n in range(30)]
    path = table(tmp_path / "named.parquet", named)
    captions, _, _ = import_file("caption", tmp_path, "rs_pairs", path, images=str(tmp_path / "img"))
    splits: dict[str, set[str]] = {}
    for row in [*found, *captions]:
        splits.setdefault(row["image_id"], set()).add(row["split"])
    assert len(splits) == 30 and all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "heldout"}


def ultra(question, good, bad, **scores):
    asked = {"role": "user", "content": question}
    turns = {"chosen": good, "rejected": bad}
    return {"prompt": question, **scores} | {
        side: [asked, {"role": "assistant", "content": text}] for side, text in turns.items()
    }


def test_ultrafeedback_gives_text_pairs_and_refuses_ties(tmp_path):
    rows = [
        ultra("how?", "so", "no", score_chosen=8.5, score_rejected=8.0),
        ultra("how?", "so", "nay", score_chosen=5.0, score_rejected=5.0),
        ultra("how?", "so", "nope", score_chosen=1.0, score_rejected=5.0),
    ]
    found, reasons, _ = import_file("text", tmp_path, "ultrafeedback", table(tmp_path / "u.parquet", rows))
    (pair,) = found
    assert (pair["family"], pair["chosen"], pair["rejected"], pair["image"]) == ("text", "so", "no", None)
    assert pair["context"] == [{"role": "user", "content": "how?"}] and pair["chosen_mark"] is None
    assert reasons == {"equal_scores": 1, "wrong_order": 1}


def test_rlhf_v_reads_its_json_and_quarantines_invalid_json(tmp_path):
    text = json.dumps({"question": "Is there a bridge?", "chosen": "No.", "rejected": "Yes."})
    image = {"bytes": image_bytes(3), "path": "x.jpg"}
    rows = [{"image": image, "text": text}, {"image": image, "text": "{half"}, {"image": None, "text": text}]
    found, reasons, _ = import_file("instruction", tmp_path, "rlhf_v", table(tmp_path / "r.parquet", rows))
    assert [(r["family"], r["chosen"]) for r in found] == [("open_ended", "No.")]
    assert reasons == {"bad_row": 1, "no_image": 1}


def test_trl_round_trip_gives_the_same_pairs_and_loads_with_datasets(tmp_path):
    from datasets import load_dataset

    image = {"bytes": image_bytes(4), "path": None}
    source = [{"image": image, "question": "How many?", "chosen": "3", "rejected": "5"}]
    first, _, _ = import_file("instruction", tmp_path, "rs_pairs", table(tmp_path / "s.parquet", source))
    assert write(first, tmp_path / "trl.parquet") == (1, 0)
    (tmp_path / "again").mkdir()
    second, _, _ = import_file("instruction", tmp_path / "again", "trl", tmp_path / "trl.parquet")
    kept = ("pair_id", "image_id", "family", "context", "chosen", "rejected", "split")
    assert [{k: r[k] for k in kept} for r in second] == [{k: r[k] for k in kept} for r in first]
    loaded = load_dataset("parquet", data_files=str(tmp_path / "trl.parquet"), cache_dir=str(tmp_path / "c"))["train"]
    assert loaded[0]["images"][0].size == (16, 16) and loaded[0]["chosen"][0]["content"][0]["text"] == "3"


def test_an_invalid_parquet_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x.parquet cannot be read"):
        import_file("text", tmp_path, "ultrafeedback", tmp_path / "x.parquet")
