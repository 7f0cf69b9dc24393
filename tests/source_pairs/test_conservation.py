"""Nothing is lost and nothing is mixed up: rows in = kept + quarantined, and no image meets another image's text."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rsqa_pipeline.curated_subsets.export import export
from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.finetuned_models.finetune_vlm import as_sft_examples
from rsqa_pipeline.finetuned_models.training import supervised_dataset
from rsqa_pipeline.images.decode import ImageFault
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers.read_source import SHARDS, read_source
from rsqa_pipeline.tiny_models.architecture import train_vlm_processor
from tests.source_pairs.generated_files import FAULTS, FORMATS, Row, number_in_pixels, number_in_text, single, write

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6).map(lambda text: f"a{text}z")
ROWS = st.lists(
    st.tuples(st.lists(TEXTS, min_size=1, max_size=3, unique=True), st.none() | st.sampled_from(FAULTS)),
    min_size=1,
    max_size=7,
).map(lambda rows: [Row(number, tuple(texts), fault) for number, (texts, fault) in enumerate(rows, 1)])
Form = Callable[[Path, Sequence[Row]], SourceFile]
PROCESSOR = train_vlm_processor(["a"], image_size=28)


def ingest(source: SourceFile) -> tuple[list[CleanRow], Quarantine]:
    quarantine = Quarantine("image_text_pairs")
    try:
        return check_rows(read_source(source), ImageIndex(1000), quarantine), quarantine
    except DataError as error:
        assert "no row can be used" in str(error)
        return [], quarantine


def texts_with_their_image(rows: Sequence[CleanRow]) -> set[str]:
    """The texts. Fails if one is beside another image than its own."""
    for clean in rows:
        assert number_in_pixels(clean.row.image) == number_in_text(clean.row.messages[-1]["content"])
    texts = [clean.row.messages[-1]["content"] for clean in rows]
    assert len(texts) == len(set(texts))
    return set(texts)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows=ROWS)
def test_rows_in_are_kept_or_quarantined_beside_their_own_image(form: Form, rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clean, quarantine = ingest(write(Path(folder) / "data", rows, form))
        assert texts_with_their_image(clean) == {text for row in rows if not row.fault for text in row.values}
        # a sample of a tar without an image is one fault, whatever the number of its texts
        in_tar = {row.number: len(row.values) - 1 for row in rows if row.fault == "missing"}
        joined = sum(in_tar.values()) if form.__name__.startswith("webdataset") else 0
        if form.__name__ == "hf_parquet_lists":
            joined = sum(in_tar.values())
        assert len(clean) + len(quarantine.rows) == len(single(rows)) - joined
        assert all(row["reason"] and row["detail"] for row in quarantine.rows)


FOLDER_FAULTS = {"corrupt": "undecodable", "no class": "no_class", "too deep": "no_class"}


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    faults=st.lists(st.none() | st.sampled_from(list(FOLDER_FAULTS)), min_size=1, max_size=9),
    split=st.sampled_from(["", "train", "Validation", "test"]),
)
def test_files_of_an_image_folder_are_kept_or_quarantined_beside_their_own_class(
    faults: list[str | None], split: str
) -> None:
    """The class folder is the text, named by the images' number; two images are in each class."""
    with tempfile.TemporaryDirectory() as name:
        for number, fault in enumerate(faults, 1):
            parents = {"no class": (), "too deep": ("a", f"{number}_a")}.get(fault or "", (f"{number}_a",))
            folder = Path(name, split, *parents)
            folder.mkdir(parents=True, exist_ok=True)
            data = Row(number, ("a",), fault).data
            for copy in range(2):
                (folder / f"{number}_{copy}.png").write_bytes(data)
        clean, quarantine = ingest(SourceFile(format="image_folder", path=name))
        expected = {number: 2 for number, fault in enumerate(faults, 1) if fault is None}
        found = [number_in_text(row.row.messages[-1]["content"]) for row in clean]
        assert found == [number_in_pixels(row.row.image) for row in clean]
        assert Counter(found) == expected
        reasons = Counter(row["reason"] for row in quarantine.rows)
        assert reasons == Counter(FOLDER_FAULTS[fault] for fault in faults if fault for _ in range(2))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows=ROWS, data=st.data())
def test_an_exported_subset_keeps_each_text_beside_its_image(form: Form, rows: list[Row], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "data", rows, form)
        clean, _ = ingest(source)
        if not clean:
            return
        keys = data.draw(st.sets(st.sampled_from([row.row.key for row in clean]), min_size=1))
        expected = {row.row.messages[-1]["content"] for row in clean if row.row.key in keys}
        name = Path(source.path or "").name
        for exported, out, options in (
            ("same", name, {}),
            ("jsonl", "x.jsonl", {"format": "jsonl", "delimiter": None}),
            ("llava", "x.json", {"format": "llava", "delimiter": None}),
            ("webdataset", "tars", {"format": "webdataset", "delimiter": None}),
        ):
            if exported in ("jsonl", "llava") and source.format in SHARDS:
                continue  # these refer to images within the source's own file
            target = Path(folder) / exported / out
            target.parent.mkdir()
            export(source, keys, target, exported)
            again, _ = ingest(source.model_copy(update={"path": str(target), **options}))
            assert texts_with_their_image(again) == expected


@dataclass(frozen=True)
class PairSpec:
    """Scores a text by the number in its image and its own: 1,000 times the one, plus the other."""

    version: str = "3" * 64
    device: Literal["auto", "cpu", "cuda"] = "cpu"

    def load(self, worker: int) -> PairSpec:
        return self

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        return [[self._score(group, text) for text in group.candidates] for group in groups]

    def _score(self, group: ScoringGroup, text: str) -> Score:
        assert isinstance(group.image, str)
        try:
            return Score(1000.0 * number_in_pixels(group.image) + number_in_text(text))
        except ImageFault as fault:
            return Score(None, fault.reason, fault.detail)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows=ROWS, shard_rows=st.integers(1, 4))
def test_a_text_is_scored_with_its_own_image(form: Form, rows: list[Row], shard_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "data", rows, form)
        read = sum(1 for _ in read_source(source))
        counts = score_file(PairSpec(), source, Path(folder) / "scores.parquet", shard_rows, Engine())
        scores = pq.read_table(Path(folder) / "scores.parquet").column("score").to_pylist()
        assert len(scores) + counts.quarantined.total() == read
        expected = [1001.0 * row.number for row in rows if not row.fault for _ in row.values]
        assert sorted(scores) == sorted(expected)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows=ROWS)
def test_a_model_is_trained_on_a_text_with_its_own_image(form: Form, rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clean, _ = ingest(write(Path(folder) / "data", rows, form))
        samples = [
            {"sample_id": found.row.key, "image": found.row.image, "messages": found.row.messages} for found in clean
        ]
        if not samples:
            return
        trained = list(supervised_dataset(PROCESSOR, as_sft_examples(samples)))
        assert len(trained) == len(clean)
        for example in trained:
            (image,), (answer,) = example["images"], example["completion"]
            assert image.getpixel((0, 0))[0] == number_in_text(answer["content"])
