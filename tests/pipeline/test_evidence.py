"""`rsqa evidence` and `rsqa lineage export` on a finished project, judged by the libraries of each format."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import pandas as pd
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import DatasetCard, ModelCard
from prov.model import ProvDocument
from typer.testing import CliRunner

from rsqa_pipeline.audit.evidence import check_evidence
from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.evidence.package import write_package
from rsqa_pipeline.evidence.project import file_hashes, models_on_disk, read_project
from rsqa_pipeline.evidence.signing import fault_of, published
from rsqa_pipeline.lineage.export.columns import column_lineage, table_columns
from rsqa_pipeline.records import sha256
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import settings_version
from tests.pipeline.mutations import restored
from tests.pipeline.project import ROOT, Project

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, *form))
    return path


@pytest.fixture(scope="module")
def packages(project: Project, key: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A signed package, and two unsigned ones."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        for name in ("signed", "unsigned", "again"):
            write_package(
                read_project(project.profile), folder / name, key if name == "signed" else None, lambda line: None
            )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def signed(project: Project, packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project.root)
    return packages["signed"]


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(signed, tmp_path / "copy")
    yield tmp_path / "copy"


def kinds(project: Project, folder: Path) -> set[tuple[str, str]]:
    return {(finding.kind, finding.where) for finding in check_evidence(project.profile, folder, None)}


def test_every_subset_is_read_whole_through_croissant(project: Project, signed: Path) -> None:
    for name in (name for name in assets_of(project.profile) if name.startswith("subset_")):
        folder = signed / "datasets" / name
        loaded = mlc.Dataset(jsonld=str(folder / "croissant.json"))
        assert not loaded.metadata.ctx.issues.errors
        rows = list(loaded.records("samples"))
        ids = pd.read_parquet(project.data / f"curated_subsets/{name}/ids.parquet")
        assert [row["samples/sample_id"].decode() for row in rows] == sorted(ids["sample_id"])
        (file,) = loaded.metadata.distribution
        assert file.sha256 == hashlib.sha256((folder / "samples.parquet").read_bytes()).hexdigest()
        for row in rows:
            made = sha256(row["samples/image_id"].decode(), row["samples/messages"].decode())
            assert made == row["samples/sample_id"].decode()
        stated = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
        assert {"rai:dataCollection", "rai:dataBiases", "rai:dataLimitations", "rai:dataUseCases"} <= set(stated)
        scores = pd.read_parquet(project.data / "curated_subsets/pair_scores/scores.parquet").set_index("sample_id")
        table = pd.read_parquet(folder / "samples.parquet").set_index("sample_id")
        assert table["score_model"].astype("float32").equals(scores["score"].reindex(table.index).rename("score_model"))


def test_the_bill_of_materials_fits_its_schema_and_names_every_file_of_every_model(
    project: Project, signed: Path
) -> None:
    text = (signed / "bom.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {part["bom-ref"]: part for part in json.loads(text)["components"]}
    for model in models_on_disk(project.profile):
        part = parts[f"model:{model.name}"]
        hashes = {file["name"]: file["hashes"][0] for file in part["components"]}
        assert {name: entry["content"] for name, entry in hashes.items()} == file_hashes(model.folder)
        assert part["type"] == "machine-learning-model" and part["modelCard"]["considerations"]["useCases"]
    assert any(metric["confidenceInterval"] for metric in _metrics(parts["model:vlm_all"]))
    assert {"library:torch", "library:transformers"} <= {ref.partition("@")[0] for ref in parts}
    sources = {ref for ref in parts if ref.startswith("source:")}
    assert any("checkpoints" in ref for ref in sources) and any("captions" in ref for ref in sources)


def _metrics(part: dict[str, Any]) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = part["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return metrics


def test_cards_are_read_by_the_hub_library_and_hold_the_measured_figures(project: Project, signed: Path) -> None:
    for model in models_on_disk(project.profile):
        card = ModelCard.load(signed / "models" / model.name / "README.md")
        assert "smoke" in card.text and "## Limits" in card.text and "## Intended use" in card.text
    card = ModelCard.load(signed / "models/vlm_all/README.md")
    results = pd.read_parquet(project.data / "benchmarks/vlm_benchmark/results.parquet")
    wanted = results[results["model"] == "all"]
    found = {(r.dataset_config, r.metric_type): (r.metric_value, r.metric_args) for r in card.data.eval_results}
    assert len(found) == len(wanted)
    for row in wanted.itertuples():
        value, interval = found[row.task, row.metric]
        assert value == pytest.approx(row.value)
        assert interval["low"] == (None if pd.isna(row.low) else pytest.approx(row.low))
        assert f"| {row.task} | {row.metric} | {row.value:.3f} |" in card.text
    for name in (name for name in assets_of(project.profile) if name.startswith("subset_")):
        data = DatasetCard.load(signed / "datasets" / name / "README.md")
        assert data.data.to_dict()["configs"][0]["data_files"] == "samples.parquet" and "## Biases" in data.text


@pytest.mark.parametrize("change", [None, "weights", "README.md", "data_manifest.json"])
def test_a_models_signature_holds_until_one_byte_changes(
    project: Project, copy: Path, tmp_path: Path, change: str | None
) -> None:
    model = next(model for model in models_on_disk(project.profile) if model.name == "vlm_all")
    documents = copy / "models/vlm_all"
    with published(model, documents) as links:
        whole = shutil.copytree(links, tmp_path / "published", symlinks=False)
    if change is not None:
        path = whole / ("model.safetensors" if change == "weights" else change)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    fault = fault_of(whole, documents / "model.sig", copy / "public_key.pem")
    assert (fault is None) == (change is None)


def test_the_history_reads_back(signed: Path) -> None:
    text = (signed / "prov.json").read_text(encoding="utf-8")
    assert ProvDocument.deserialize(StringIO(text), format="json").get_records()


def test_no_link_is_dead(packages: dict[str, Path], signed: Path) -> None:
    links = 0
    for page in (page for folder in (signed, packages["unsigned"]) for page in folder.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        anchors = {
            re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall("^#+ (.*)", text, re.M)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            links += 1
            assert target[1:] in anchors if target[0] == "#" else (page.parent / target).is_file(), (page, target)
    assert links > 100


def test_an_unsigned_package_says_so_and_the_same_project_gives_the_same_bytes(packages: dict[str, Path]) -> None:
    unsigned = packages["unsigned"]
    assert "**Unsigned.**" in (unsigned / "index.md").read_text(encoding="utf-8")
    assert not list(unsigned.rglob("*.sig")) and not (unsigned / "public_key.pem").exists()
    assert file_hashes(unsigned) == file_hashes(packages["again"])
    signed, apart = file_hashes(packages["signed"]), {"index.md", "index.html", "evidence.json", "public_key.pem"}
    same = {name: digest for name, digest in file_hashes(unsigned).items() if "/README." not in name}
    assert all(signed[name] == digest for name, digest in same.items() if name not in apart)


def test_any_changed_missing_or_added_file_of_an_unsigned_package_is_found_by_name(
    project: Project, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    folder = shutil.copytree(packages["unsigned"], tmp_path / "copy")
    assert kinds(project, folder) == set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, before = path.relative_to(folder).as_posix(), path.read_bytes()
        for changed in (before + b" ", before.replace(b"smoke", b"smoky") if name == "index.md" else before + b"\n"):
            path.write_bytes(changed)
            assert kinds(project, folder) == {("changed_evidence", name)}
        path.unlink()
        if name != "evidence.json":
            assert kinds(project, folder) == {("missing_evidence", name)}
        path.write_bytes(before)
    for name in ("more.txt", "models/more.sig"):
        (folder / name).write_text("{}")
        assert kinds(project, folder) == {("added_evidence", name)}
        (folder / name).unlink()


def test_another_version_in_the_index_is_a_finding_of_its_own(
    project: Project, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    path = shutil.copytree(packages["unsigned"], tmp_path / "copy") / "evidence.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["assets"]["vlm_all"]["data_version"] = "0.dir"
    stated["sha256"] = settings_version({key: value for key, value in stated.items() if key != "sha256"})
    path.write_text(json.dumps(stated, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert kinds(project, path.parent) == {("stale_evidence", "vlm_all")}
    stated["commit"] = "of another day"
    path.write_text(json.dumps(stated, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert ("changed_evidence", "evidence.json") in kinds(project, path.parent)


@pytest.mark.parametrize(
    "name", ["index.md", "evidence.json", "public_key.pem", "models/vlm_all/model.sig", "package.sig"]
)
def test_a_change_of_a_signed_package_is_found_by_name(project: Project, copy: Path, name: str) -> None:
    assert kinds(project, copy) == set()
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    found = kinds(project, copy)
    assert ("changed_evidence", name) in found and (name.endswith(".sig") or ("bad_signature", "package.sig") in found)
    (copy / name).unlink()
    if name != "evidence.json":
        assert ("missing_evidence", name) in kinds(project, copy)


def test_an_edit_of_a_file_and_of_the_list_at_once_breaks_the_signature(project: Project, copy: Path) -> None:
    (copy / "index.md").write_text("all is well\n")
    stated = json.loads((copy / "evidence.json").read_text(encoding="utf-8"))
    stated["files"]["index.md"] = hashlib.sha256(b"all is well\n").hexdigest()
    stated["sha256"] = settings_version({key: value for key, value in stated.items() if key != "sha256"})
    (copy / "evidence.json").write_text(json.dumps(stated, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert kinds(project, copy) == {("bad_signature", "package.sig")}


def test_changes_of_the_project_are_found(project: Project, copy: Path) -> None:
    with restored(project):
        weights = project.data / "finetuned_models/clip_all/model/model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
        found = kinds(project, copy)
    assert found == {("stale_evidence", "clip_all"), ("bad_signature", "models/clip_all/model.sig")}


def test_another_signers_package_is_found_with_the_signers_key(project: Project, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    other.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    found = {finding.where for finding in check_evidence(project.profile, copy, other)}
    assert "package.sig" in found and "models/vlm_all/model.sig" in found


def test_stated_column_lineage_is_that_of_the_tables(project: Project, signed: Path) -> None:
    standing, checked = read_project(project.profile).standing, 0
    for name, record in standing.items():
        lineage = column_lineage(record)
        if lineage is None:
            continue
        columns = table_columns(project.data / "curated_subsets" / name)
        for column, sources in lineage.columns.items():
            assert column in columns
            values = set[Any]()
            for source in sources:
                table, part = source.column.split(".")
                path = assets_of(project.profile)[source.asset].folder(project.profile) / f"{table}.parquet"
                values |= set(pd.read_parquet(path)[part]) if source.how == "IDENTITY" else set()
            if values:
                table, part = column.split(".")
                made = pd.read_parquet(project.data / "curated_subsets" / name / f"{table}.parquet")
                assert set(made[part]) <= values
                checked += 1
    assert checked >= 3 * sum(name.startswith("subset_") for name in standing) - 2


def test_user_mistakes_write_nothing(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").write_text("mine")
    for words in (
        ["evidence", "--out", str(used)],
        ["evidence", "--out", str(tmp_path / "new"), "--profile", "rsicd"],
        ["evidence", "--out", str(tmp_path / "new"), "--profile", "demo"],
        ["evidence", "--out", str(tmp_path / "new"), "--key", str(tmp_path / "none.pem")],
        ["lineage", "export", "--format", "prov", "--out", str(tmp_path / "new"), "--profile", "demo"],
        ["audit", "--evidence", str(used)],
        ["audit", "--public-key", str(used)],
    ):
        done = CliRunner().invoke(app, words)
        assert getattr(done.exception, "exit_code", None) == 2, (words, done.exception)
        if isinstance(done.exception, UsageError):
            assert "\n" not in str(done.exception)
    assert list(tmp_path.iterdir()) == [used] and (used / "mine").read_text() == "mine"


@pytest.mark.parametrize("page", ["evidence_package.md", "lineage.md"])
def test_the_commands_of_the_docs(project: Project, page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("data/demo", "data/smoke")
    part = text if page == "evidence_package.md" else text.partition("## Exports")[2].partition("## Versions")[0]
    made = ["key.pem", "evidence", "published", "lineage.jsonl", "lineage.prov.json", "lineage.sqlite"]
    try:
        for block in re.findall(r"```sh\n(.*?)```", part, re.S):
            project.call("bash", "-euc", block)
        there = {name for name in made if (project.root / name).exists()}
        assert there == set(made[:3] if page == "evidence_package.md" else made[3:])
    finally:
        for name in made:
            path = project.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
