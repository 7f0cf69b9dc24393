"""What samples, images, writers, judges or models touched, and what must be rebuilt without them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.lineage.manifest import ManifestStore, manifests
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, sample_id
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.stages.asset_names import downstream

_SAMPLE_KEYS = ("sample_id", "image_id", "image", "source")
_ITEM_KEYS = ("item_id", "image_id", "image")
_PAIR_KEYS = ("pair_id", "image_id", "image", "chosen_source", "rejected_source", "judge")
_MODELS = ("score_model", "finetuned_models", "rl_policy")
_REPORTS = ("benchmarks", "report")


def forward(profile: Profile, *targets: str) -> dict[str, Any]:
    """All rows and assets that any of ``targets`` touched.

    Args:
        targets: each the id of a sample, pair or benchmark item, hash or path of an image, name of a source, captioner
            or judge, version of a model (its weights), or an asset that is one.

    Returns:
        ``samples``, ``scores`` and ``subsets`` (asset -> sample ids), ``pairs`` (asset -> pair ids), ``items`` (asset
        -> item ids), ``models`` (asset -> samples or pairs that it read, 0 where it only depends on one that did),
        ``reports`` (assets), ``rebuild`` (assets in order, with the seconds that each took last; None if never timed
        here).

    Raises:
        UsageError: nothing recorded is named so.
    """
    assets, store = assets_of(profile), manifests(profile)
    wanted = _names(targets)
    samples = {name: _ids(assets, profile, name, "samples.parquet", _SAMPLE_KEYS, wanted) for name in TABLES}
    items = {"benchmark_sets": _ids(assets, profile, "benchmark_sets", "items.parquet", _ITEM_KEYS, wanted)}
    images = _images_of(assets, profile, wanted)
    pairs = {
        name: _pairs(assets[name].folder(profile), wanted, images) for name in assets if name.endswith("_preferences")
    }  # fmt: skip
    scores = {name: _scored(assets, profile, name, samples, wanted) for name in ("pair_scores", "clip_scores")}
    made = [name for name in assets if name in targets or any(_made(store, name, target) for target in targets)]
    touched = [name for found in (samples, items, pairs) for name, ids in found.items() if len(ids)]
    touched += [name for name in made if name not in touched]
    touched += [name for name, ids in scores.items() if len(ids) and not touched]
    if not touched:
        raise UsageError(
            f"no sample, image, source, captioner, judge, model version or asset {' or '.join(map(repr, targets))} "
            f"in profile {profile.name}"
        )
    reached = {other for name in touched for other in (name, *downstream(assets, name))}
    rebuild = [name for name in assets if name in reached]
    ids = pa.chunked_array([part for found in (samples, scores) for part in found.values()], pa.string())
    subsets = {name: _kept(assets[name].folder(profile), ids) for name in assets if name.startswith("subset_")}
    found_rows = {**samples, **pairs, **items}
    rows = {name: [str(value) for value in found.to_pylist()] for name, found in found_rows.items()}
    return {
        "target": " ".join(targets),
        "samples": {name: rows[name] for name in samples if rows[name]},
        "pairs": {name: rows[name] for name in pairs if rows[name]},
        "items": {name: rows[name] for name in items if rows[name]},
        "scores": {name: found.to_pylist() for name, found in scores.items() if len(found)},
        "subsets": {name: found for name, found in subsets.items() if found},
        "models": _models(assets, rebuild, profile, samples, pairs, subsets),
        "reports": [name for name in rebuild if assets[name].stage in _REPORTS],
        "rebuild": {name: _last_seconds(store, name) for name in rebuild},
    }


def _names(targets: Sequence[str]) -> pa.Array:
    """What the targets may be called in a table: an image file also by the hash of its bytes."""
    files = [path for path in map(Path, targets) if path.is_file()]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return pa.array([*targets, *hashes], pa.string())


def _images_of(assets: Mapping[str, Asset], profile: Profile, wanted: pa.Array) -> pa.Array:
    """``image_id`` of the samples that are wanted by their own id."""
    found = [pa.array([], pa.string())]
    for name in TABLES:
        path = assets[name].folder(profile) / "samples.parquet" if name in assets else Path()
        if path.is_file():
            table = pq.read_table(path, columns=["sample_id", "image_id"])
            found += table["image_id"].filter(pc.is_in(table["sample_id"], value_set=wanted)).chunks
    return pc.unique(pa.concat_arrays(found))


def _ids(
    assets: Mapping[str, Asset], profile: Profile, name: str, file: str, keys: tuple[str, ...], wanted: pa.Array
) -> pa.Array:
    path = assets[name].folder(profile) / file if name in assets else Path()
    return _matching(path, keys, wanted) if path.is_file() else pa.array([], pa.string())


def _matching(path: Path, keys: tuple[str, ...], wanted: pa.Array) -> pa.Array:
    """First key of the rows of which any key is wanted."""
    table = pq.read_table(path, columns=list(keys))
    hit = pc.is_in(table[keys[0]], value_set=wanted)
    for key in keys[1:]:
        hit = pc.or_(hit, pc.is_in(table[key], value_set=wanted))
    return table[keys[0]].filter(hit).combine_chunks()


def _pairs(folder: Path, wanted: pa.Array, images: pa.Array) -> pa.Array:
    """Pairs that name a target, hold a wanted sample's text, or have a text that a wanted model wrote or a wanted judge
    marked.

    Args:
        images: ``image_id`` of the wanted samples.
    """
    path = folder / "pairs.parquet"
    if not path.is_file():
        return pa.array([], pa.string())
    found = pa.concat_arrays([_matching(path, _PAIR_KEYS, wanted), _pairs_with_texts(path, wanted, images)])
    table = pq.read_table(path, columns=["pair_id", "image_id", "chosen", "rejected"])
    for file, keys in (("generations", ("version", "model")), ("judgements", ("judge_version",))):
        texts = pq.read_table(folder / f"{file}.parquet", columns=["image_id", "text", *keys])
        for key in keys:
            by_it = texts.filter(pc.is_in(texts[key], value_set=wanted)).select(["image_id", "text"])
            for side in ("chosen", "rejected") if by_it.num_rows else ():
                joined = table.join(by_it, ["image_id", side], ["image_id", "text"], join_type="left semi")
                found = pa.concat_arrays([found, joined["pair_id"].combine_chunks()])
    return pc.unique(found)


def _pairs_with_texts(path: Path, wanted: pa.Array, images: pa.Array) -> pa.Array:
    """Pairs of which the chosen or the rejected text, with context and image, is a wanted sample."""
    if not len(images):
        return pa.array([], pa.string())
    columns = ["pair_id", "image_id", "context", "chosen", "rejected"]
    table, ids = pq.read_table(path, columns=columns), set(wanted.to_pylist())
    about = table.filter(pc.is_in(table["image_id"], value_set=images)).to_pylist()
    return pa.array([row["pair_id"] for row in about if ids.intersection(sample_ids_of(row))], pa.string())


def sample_ids_of(pair: Mapping[str, Any]) -> list[str]:
    """The ``sample_id`` of a pair's chosen and rejected text, as if each were a sample."""
    texts = (pair["chosen"], pair["rejected"])
    return [
        sample_id(pair["image_id"] or "", [*pair["context"], Message(role="assistant", content=text)]) for text in texts
    ]


def _scored(
    assets: Mapping[str, Asset], profile: Profile, name: str, samples: Mapping[str, pa.Array], wanted: pa.Array
) -> pa.Array:
    """Touched samples with a score, and those whose score a wanted model gave."""
    path = assets[name].folder(profile) / "scores.parquet" if name in assets else Path()
    if not path.is_file():
        return pa.array([], pa.string())
    touched = pa.concat_arrays([*samples.values(), wanted])
    return _matching(path, ("sample_id", "model_version"), touched)


def _made(store: ManifestStore, name: str, version: str) -> bool:
    """Whether a record of the asset has this version, as data or as weights."""
    return any(version in (record.data_version, record.weights) for record in store.history(name))


def _kept(folder: Path, ids: pa.ChunkedArray) -> list[str]:
    path = folder / "ids.parquet"
    if not path.is_file():
        return []
    table = pq.read_table(path, columns=["sample_id"])
    return [str(key) for key in table["sample_id"].filter(pc.is_in(table["sample_id"], value_set=ids)).to_pylist()]


def _models(
    assets: Mapping[str, Asset],
    rebuild: list[str],
    profile: Profile,
    samples: Mapping[str, pa.Array],
    pairs: Mapping[str, pa.Array],
    subsets: Mapping[str, list[str]],
) -> dict[str, int]:
    """Models below the target, with the touched rows that each reads itself."""
    found = {}
    for name in rebuild:
        if assets[name].stage not in _MODELS or not (assets[name].folder(profile) / "model").is_dir():
            continue
        inputs = set(assets[name].inputs)
        read = {row for table in TABLES if table in inputs for row in samples[table].to_pylist()}
        kept = [len(read.intersection(subsets[part])) for part in inputs if part in subsets]
        found[name] = sum(kept) + sum(len(pairs[part]) for part in inputs if part in pairs)
    return found


def _last_seconds(store: ManifestStore, name: str) -> float | None:
    times = (made.run["seconds"] for made in reversed(store.history(name)) if "seconds" in made.run)
    return next(map(float, times), None)
