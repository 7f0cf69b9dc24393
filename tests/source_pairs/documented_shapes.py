"""The shapes of the table in docs/own_data.md, each as a file that this module writes and what is read from it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.images.decode import hash_image
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows, drop_repeats
from rsqa_pipeline.source_pairs.image_text_pairs import draft_of
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from tests.source_pairs.test_image_stores import picture
from tests.source_pairs.test_published_shapes import write_members

IMAGES = {"A": picture(1), "B": picture(2)}
LETTERS = {hash_image(data): letter for letter, data in IMAGES.items()}
Build = Callable[[Path], SourceFile]


def image(folder: Path, *names: str, letter: str = "A") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGES[letter])


def read(source: SourceFile) -> tuple[list[str], list[str]]:
    """The kept rows as ``A: text`` (with the split, the class and the task, if they are not the usual ones), and the
    reasons of the others."""
    quarantine = Quarantine("image_text_pairs")
    clean = check_rows(read_source(source), ImageIndex(1000), quarantine, source.boxes)
    drafts = [draft_of(row, 7, 0.5) for row in clean]
    samples = drop_repeats(((draft.key, draft.sample) for draft in drafts), quarantine)
    facts = {(row.image_id, str(row.row.messages)): row.row for row in clean}
    kept = []
    for sample in samples:
        row = facts[sample["image_id"], str(sample["messages"])]
        shown = [row.split, row.scene_class, None if row.task in ("caption", "open") else row.task]
        text = " | ".join(message["content"] for message in row.messages)
        kept.append(" ".join([f"{LETTERS[sample['image_id']]}: {text}", *(f"({fact})" for fact in shown if fact)]))
    return kept, [row["reason"] for row in quarantine.rows]


def text_file(name: str, text: str | bytes, form: str, **options: Any) -> Build:
    def build(folder: Path) -> SourceFile:
        image(folder, "a.png")
        image(folder, "b.png", letter="B")
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return SourceFile(format=form, path=str(folder / name), **options)  # type: ignore[arg-type]

    return build


def lines(*rows: dict[str, Any], name: str = "rows.jsonl", **options: Any) -> Build:
    return text_file(name, "\n".join(json.dumps({"image": "a.png", **row}) for row in rows), "jsonl", **options)


def as_json(content: Any, form: str, **options: Any) -> Build:
    return text_file("rows.json", json.dumps(content), form, **options)


def tar(*members: tuple[str, bytes]) -> Build:
    def build(folder: Path) -> SourceFile:
        write_members(folder / "rows.tar", *members)
        return SourceFile(format="webdataset", path=str(folder / "rows.tar"))

    return build


def parquet(name: str, **columns: Any) -> Build:
    def build(folder: Path) -> SourceFile:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / name)
        return SourceFile(format="hf_parquet", path=str(folder / Path(name).parts[0]))

    return build


def image_list(folder: Path) -> SourceFile:
    """Captions of images whose files are named otherwise than the list names them."""
    image(folder, "in/pond.png", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png")
    image(folder, unicodedata.normalize("NFD", "\N{LATIN SMALL LETTER U WITH DIAERESIS}.png"), "two words.png")
    image(folder, "%41.png", letter="B")  # exists as it is written, so it is not decoded
    names = ["in\\pond.png", unicodedata.normalize("NFD", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png")]
    names += ["\N{LATIN SMALL LETTER U WITH DIAERESIS}.png", "two%20words.png", "%41.png"]
    names += ["..%2Fsecret.png", "gone%20.png"]
    image(folder.parent, "secret.png")
    return lines(*({"image": name, "text": str(number)} for number, name in enumerate(names)))(folder)


def same_names(folder: Path) -> SourceFile:
    image(folder, "x/1.png", "a#1.png")
    image(folder, "y/1.png", "a#2.png", letter="B")
    rows = [{"image": name, "text": name} for name in ("x/1.png", "y/1.png", "a#1.png", "a#2.png", "a#3.png")]
    return lines(*rows)(folder)


def class_folder(folder: Path) -> SourceFile:
    image(folder / "images", "River/a.png", "loose.png")
    image(folder / "images", "test/Dense Residential/b.png", letter="B")
    (folder / "images" / "Lake").symlink_to("River")
    return SourceFile(format="image_folder", path=str(folder / "images"))


def nwpu(folder: Path) -> SourceFile:
    image(folder, "airplane/1.png")
    rows = [{"filename": "1.png", "split": "train", "raw": "one .", "raw_1": "two .", "raw_2": None}, {"split": "val"}]
    return as_json({"airplane": rows, "airport": []}, "nwpu_captions")(folder)


def filepath(folder: Path) -> SourceFile:
    image(folder, "val2014/x.png")
    image(folder, "train2014/x.png", letter="B")
    entries = [
        {"filepath": folders, "filename": "x.png", "split": split, "sentences": [{"raw": "same name ."}]}
        for folders, split in (("val2014", "test"), ("train2014", "restval"), ("test2014", "train"))
    ]
    return as_json({"images": entries}, "karpathy")(folder)


def turns(question: str, answer: str, **facts: Any) -> dict[str, Any]:
    pair = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": "a.png", "conversations": pair, **facts}


def boxes(*answers: str, unit: str = "0..100", order: str = "corners") -> Build:
    rows = [turns(f"{number}?", answer, task="grounding") for number, answer in enumerate(answers)]
    return as_json(rows, "llava", boxes={"unit": unit, "order": order})


CHAT = [{"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "2"}]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}, CHAT[1]]
STORED = {"bytes": IMAGES["A"], "path": None}

SHAPES: Sequence[tuple[str, Build, list[str], list[str]]] = [
    ("`karpathy`", as_json({"images": [
        {"filename": "a.png", "split": "train", "sentences": [{"raw": "one ."}, {"raw": "two ."}, {"tokens": []}]},
        {"filename": "b.png", "split": "test", "sentences": []}, {"filename": "b.png", "split": "some"}]}, "karpathy"),
     ["A: one . (train)", "A: two . (train)"], ["not_text", "no_captions", "unknown_split"]),
    ("`filepath` in Karpathy JSON", filepath, ["A: same name . (test)", "B: same name . (train)"], ["missing_image"]),
    ("`coco`", as_json({"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"},
                                   {"id": True, "file_name": "b.png"}, {"id": 3.0, "file_name": "b.png"}],
                        "annotations": [{"id": 5, "image_id": 1, "caption": "one ."}, {"id": 6,
        "image_id": 9}, {"id": 7, "image_id": True, "caption": "no ."}, {"id": 8, "image_id": "1", "caption": "no ."},
        {"id": 9, "image_id": 3, "caption": "no ."}]}, "coco"),
     ["A: one ."], ["no_image"] * 2 + ["unknown_image"] * 4 + ["no_captions"]),
    ("`nwpu_captions`", nwpu, ["A: one . (train) (airplane)", "A: two . (train) (airplane)"], ["not_text", "no_image"]),
    ("`llava`", as_json([turns("<image>\nWhat?", "a pier"), {"image": "a.png"}, turns("?", "one") | {"image": None}],
                        "llava"), ["A: What? | a pier"], ["bad_turns", "no_image"]),
    ("several turns", as_json([{"image": "a.png", "conversations": [
        *turns("<image>What?", "a pier")["conversations"], *turns("How long?", "80 m")["conversations"]]},
        {"image": "a.png", "conversations": [*turns("What?", "a pier")["conversations"], {"from": "gpt",
        "value": "!"}]}],
        "llava"), ["A: What? | a pier | How long? | 80 m"], ["bad_turns"]),
    ("`<image>` with a prompt of LLaVA's pre-training", as_json(
        [turns("<image>\nProvide a brief description of the given image.", "a pier"), turns("<image>", "a dam"),
         turns("<image>\nIs it a pier?", "yes")], "llava"), ["A: a pier", "A: a dam", "A: Is it a pier? | yes"], []),
    ("`caption_prompts`", as_json(
        [turns("<image>\nProvide a brief description of the given image.", "a pier"),
         turns("<image>\nTell me all!", "a dam")], "llava", caption_prompts=["tell me all!"]),
     ["A: Provide a brief description of the given image. | a pier", "A: a dam"], []),
    ("`jsonl`", lines({"text": "one ."}, {"messages": CHAT}, {"text": 3}, {"image": 3, "text": "two ."}),
     ["A: one .", "A: How many? | 2"], ["not_text", "no_image"]),
    ("`captions`, a list", lines({"captions": ["one .", "two .", 3]}, {"caption": ["three ."]}, {"captions": []}),
     ["A: one .", "A: two .", "A: three ."], ["not_text", "no_captions"]),
    ("`images: [one]`", lines({"image": None, "images": ["b.png"], "messages": CHAT},
                              {"images": ["a.png", "b.png"], "image": None, "messages": CHAT},
                              {"images": ["b.png"], "messages": CHAT}, {"file_name": "b.png", "messages": CHAT}),
     ["B: How many? | 2"], ["no_image"] * 3),
    ("`file_name`", lines({"image": None, "file_name": "b.png", "text": "one ."}, {"image": None, "file_name": "c.png",
                          "text": "two ."}, name="metadata.jsonl"), ["B: one ."], ["missing_image"]),
    ("content parts", lines({"messages": PARTS}, {"messages": [{"role": "user",
        "content": [{"type": "audio"}]}, CHAT[1]]}),
     ["A: How many? | 2"], ["bad_turns"]),
    ("an image named in a turn", lines(
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "file://a.png"}}, PARTS[0]["content"][1]]}, CHAT[1]]},
        {"messages": [{"role": "user", "content": [
            {"type": "image", "image": "b.png"}, {"type": "text", "text": "Which?"}]}, CHAT[1]]},
        {"image": "b.png", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}, CHAT[1]]}),
     ["A: How many? | 2"], ["bad_turns", "bad_turns"]),
    ("`<img>a.jpg</img>`", as_json(
        [turns("Picture 1: <img>a.png</img>\nHow many?", "2"), turns("<img>b.png</img> Which?", "a pier"),
         turns("<img></img>What?", "a dam"), turns("<img>a.png</img><image>?", "two marks")], "llava"),
     ["A: How many? | 2", "A: What? | a dam"], ["bad_turns", "bad_turns"]),
    ("two texts in one row", lines(
        {"text": "one .", "captions": ["one ."]}, {"text": "two .", "captions": ["three .", "four ."]},
        {"caption": "five .", "messages": CHAT}, {"text": "", "captions": ["six ."]}),
     ["A: one .", "A: six ."], ["bad_row", "bad_row"]),
    ("a key twice in one object", text_file(
        "rows.jsonl", '{"image": "a.png", "image": "b.png", "text": "one ."}\n{"image": "a.png", "text": "two ."}\n',
        "jsonl"), ["A: two ."], ["bad_row"]),
    ("turns as JSON text", lines({"messages": json.dumps(CHAT)}, {"messages": json.dumps(CHAT)[:-1]}),
     ["A: How many? | 2"], ["bad_turns"]),
    ("two `<image>` marks", lines({"text": "<image> one <image>"}, {"messages": [{**CHAT[0],
        "content": "<image><image>"},
                                  CHAT[1]]}, {"messages": CHAT}), ["A: How many? | 2"], ["bad_turns", "bad_turns"]),
    ("`csv`", text_file("rows.csv", "image,text,split,scene_class\na.png,\"one, two .\",Dev,port\na.png,three .\n"
                        ",four .,,\n", "csv"), ["A: one, two . (validation) (port)"], ["bad_row", "no_image"]),
    ("other column names", text_file("rows.csv", "filepath,title,text\na.png,one .,not this\nc.png,two .,\n", "csv",
                                     columns={"image": "filepath", "text": "title"}), ["A: one ."], ["missing_image"]),
    ("`;` or tabs", text_file("rows.tsv", "image\ttext\na.png\tone, two; .\na.png\n", "csv", delimiter="\t"),
     ["A: one, two; ."], ["bad_row"]),
    ("one `<image>` mark in a caption", text_file(
        "rows.csv", "image,text\na.png,<image> one .\na.png,<img>b.png</img> two .\n", "csv"),
     ["A: one ."], ["bad_turns"]),
    ("UTF-16", text_file("rows.csv", "image,text\na.png,\u6a4b .\na.png\n".encode("utf-16"), "csv"), ["A: \u6a4b ."],
     ["bad_row"]),
    ("`webdataset`", tar(("1.png", IMAGES["A"]), ("1.txt", b"one ."), ("2.png", IMAGES["B"]), ("2.json",
                         b'{"captions": ["two .", "three ."]}'), ("3.txt", b"four ."),
                         ("4.png", IMAGES["A"]), ("4.txt", b"five ."), ("4.json", b'{"caption": "five .", "id": 4}'),
                         ("5.png", IMAGES["A"]), ("5.txt", b"six ."), ("5.json", b'{"caption": "seven ."}')),
     ["A: one .", "B: two .", "B: three .", "A: five ."], ["no_image", "bad_row"]),
    ("`37.77_-122.41.jpg` in a tar", tar(("37.77_-122.41.png", IMAGES["A"]), ("37.77_-122.41.txt", b"one ."),
                                         ("37.78_-122.41.png", IMAGES["B"]), ("37.78_-122.41.txt", b"two .")),
     ["A: one .", "B: two ."], []),
    ("one image, several `.txt` of one name", tar(("x.png", IMAGES["A"]), *(("x.txt", b"%d ." % n) for n in range(5)),
                                                  ("y.png", IMAGES["A"]), ("y.png", IMAGES["B"]), ("y.txt", b"?")),
     [f"A: {n} ." for n in range(5)], ["bad_row"]),
    ("two images of one name in a tar", tar(("x.png", IMAGES["A"]), ("x.txt", b"one ."), ("x.png", IMAGES["B"])),
     ["A: one ."], ["not_text"]),
    ("`hf_parquet`", parquet("rows.parquet", image=[STORED, STORED, None], text=["one .", None, "two ."]),
     ["A: one ."], ["not_text", "no_image"]),
    ("Parquet `images` of `list<struct>`", parquet(
        "rows.parquet", images=[[STORED], [], [STORED, STORED], [{"bytes": IMAGES["B"], "path": "b"}]],
        conversations=[json.dumps(turns("<image>What?", f"{n}")["conversations"]) for n in range(4)]),
     ["A: What? | 0", "B: What? | 3"], ["no_image", "no_image"]),
    ("`image_folder`", class_folder, ["A: what class of scene is this? | river (river) (scene_class)",
     "B: what class of scene is this? | dense residential (test) (dense_residential) (scene_class)"],
     ["no_class", "outside_root"]),
    ("`dense_residential_12.jpg`, `agricultural00.tif`", lambda folder: (
        image(folder, "dense_residential_12.png", "00.png"),
        lines({"image": "dense_residential_12.png", "text": "one ."}, {"image": "00.png", "text": "two ."},
              scene_class_from_name=True)(folder))[1], ["A: one . (dense_residential)", "A: two ."], []),
    ("ids repeated, null, empty or NaN", lines(
        *({"id": 7, "text": f"{n} ."} for n in (1, 2)), {"id": None, "text": "3 ."}, {"id": "", "text": "4 ."},
        {"id": float("nan"), "text": "4 ."}),
     ["A: 1 .", "A: 2 .", "A: 3 .", "A: 4 ."], ["duplicate_id"]),
    ("`default/test/0000.parquet`, `val/x.jpg` in a tar, `rsicd_test.jsonl`", parquet(
        "default/test/0000.parquet", image=[STORED], text=["one ."]), ["A: one . (test)"], []),
    ("`train_test.jsonl`", lines({"text": "1"}, {"image": "b.png", "text": "2", "split": "test"},
                                 {"text": "3", "split": 0}, name="train_test.jsonl"),
     ["A: 1", "B: 2 (test)"], ["unknown_split"]),
    ("a split in each row", lines({"text": "1", "split": "Dev"}, {"text": "2", "image": "b.png"},
                                  {"text": "3", "split": "fold 1"}, name="rsicd_test.jsonl"),
     ["A: 1 (validation)", "B: 2 (test)"], ["unknown_split"]),
    ("`task: Visual Grounding`", lines({"messages": CHAT, "task": "Counting"}, {"messages": CHAT, "task": "VQA"}),
     ["A: How many? | 2 (count)"], ["unknown_task"]),
    ("`#` in names, equal names in two folders", same_names,
     ["A: x/1.png", "B: y/1.png", "A: a#1.png", "B: a#2.png"], ["missing_image"]),
    ("`\\`, NFD and percent-encoding in names", image_list, ["A: 0", "A: 1", "A: 2", "A: 3", "B: 4"],
     ["outside_root", "missing_image"]),
    ("`{<25><30><50><60>\\|<90>}`", boxes("{<25><25><75><50>|<0>}", "{<25><25><75><50>|<90>}", "{<25><25><175><50>}"),
     ["A: 0? | [2, 2, 6, 4] (grounding)", "A: 1? | [3, 1, 5, 5] (grounding)"], ["bad_box"]),
    ("`<\\|box_start\\|>(x,y),(x,y)<\\|box_end\\|>`, `<box>`", boxes(
        "<|box_start|>(250,250),(750,500)<|box_end|>", "<box>(750,500),(250,250)</box>", "<box>(0,0),(2000,9)</box>",
        unit="0..1000"), ["A: 0? | [2, 2, 6, 4] (grounding)", "A: 1? | [2, 2, 6, 4] (grounding)"], ["bad_box"]),
    ("JSON `bbox_2d`", boxes(
        '[{"bbox_2d": [2, 2, 6, 4], "label": "pier"}]', '{"bbox_2d": [2, 2, 6, 9]}', unit="pixels"),
     ['A: 0? | [{"bbox_2d": [2, 2, 6, 4], "label": "pier"}] (grounding)'], ["bad_box"]),
    ("`[x, y, width, height]`", boxes("[2, 2, 4, 2]", "[2, 2, 7, 2]", unit="pixels", order="xywh"),
     ["A: 0? | [2, 2, 6, 4] (grounding)"], ["bad_box"]),
    ("polygons", boxes("[0.25, 0.25, 0.75, 0.25, 0.5, 0.5]", "[25, 25, 75, 25, 50, 50]", unit="fraction"),
     ["A: 0? | [2, 2, 6, 4] (grounding)"], ["bad_box"]),
    ("boxes without a declared unit", lines(
        *({"messages": [CHAT[0], {**CHAT[1], "content": box}], "task": "grounding"} for box in
          ("[6, 4, 2, 2]", "(2,2),(6,4)", "{<25><25><75><50>}", "[0.2, 0.2, 0.6, 0.4]", "2 2 6 4", "nowhere"))),
     ["A: How many? | [2, 2, 6, 4] (grounding)", "A: How many? | nowhere (grounding)"], ["bad_box"] * 4),
]  # fmt: skip
