"""`rsqa score`: a file in, a table of scores out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsqa_pipeline.cli.checks import compute_on, refuse_bad_model, refuse_bad_out, refuse_missing, source_file
from rsqa_pipeline.cli.processes import exit_at_signal
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.profile import Compute, SourceFile
from rsqa_pipeline.profile.curated_subsets import ClipText, EngineName

if TYPE_CHECKING:
    from rsqa_pipeline.curated_subsets.scoring.first_pass import FirstPass
    from rsqa_pipeline.curated_subsets.scoring.scorers import ModelSpec
    from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts

FORMATS = "karpathy, coco, llava, csv, jsonl, webdataset, hf_parquet, image_folder; or tensors (.npz, prepared)."

BATCH_SIZE, SHARD_ROWS = 64, 2000
"""Defaults; neither changes a score."""


def score(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Score model (ours or the released layout), or with --clip a CLIP or SigLIP: folder, hub id.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="File or folder to score, see --format.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Parquet file: key, image, image_hash, text_hash, score, model_version, note. In an existing file, "
            "rows with the same image and text that this model has scored are not scored again, and the scores of "
            "another model stay in columns score@VERSION.",
        ),
    ],
    form: Annotated[str, typer.Option("--format", help=FORMATS)] = "llava",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: the file's.")] = None,
    clip: Annotated[bool, typer.Option("--clip", help="CLIP score (cosine) instead; --model is then a CLIP.")] = False,
    clip_text: Annotated[
        ClipText,
        typer.Option(help="With --clip, a text beyond its context: cut, or the mean over windows of that length."),
    ] = "truncate",
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens scored at once, images' and padding among them.", min=1)
    ] = 4096,
    batch_size: Annotated[int, typer.Option(help="With --clip, images and texts per batch.", min=1)] = BATCH_SIZE,
    shard_rows: Annotated[int, typer.Option(help="Rows per shard, the unit of resuming.", min=1)] = SHARD_ROWS,
    engine: Annotated[
        EngineName, typer.Option(help="local: processes of this machine; ray: Ray Data (extra 'cluster', RAY_ADDRESS).")
    ] = "local",
    workers: Annotated[
        int, typer.Option(help="Processes, or Ray actors; each loads the model, and takes a GPU of its own.", min=1)
    ] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Score in full only rows that can be among the best --keep; a first pass through some of the model's "
            "layers drops the others. Used only where it saves work.",
        ),
    ] = False,
    keep: Annotated[
        float | None, typer.Option("--keep", help="With --adaptive, the best share to find of each kind, in (0, 1).")
    ] = None,
) -> None:
    """Score every row of a file with a score model or a CLIP.

    After a kill, the same command resumes from the last finished shard, also with another batch size, device or number
    of workers. Rows that cannot be scored are in OUT's .quarantine.parquet with their reason.
    """
    refuse_bad_model(model)
    refuse_bad_out(out)
    compute = compute_on(device, batch_tokens)
    best_share = _best_share(adaptive, keep, clip, form)
    if form == "tensors":
        refuse_missing(data, "--data")
    source = None if form == "tensors" else source_file(form, data, images)
    with exit_at_signal(f"stopped; run the same command again to resume: finished shards are kept beside {out}"):
        if source is None:
            _score_tensors(model, data, out)
            return
        from rsqa_pipeline.curated_subsets.scoring.engines import Engine
        from rsqa_pipeline.curated_subsets.scoring.score_file import score_best_share, score_file

        spec = _spec(model, compute, batch_size, clip_text if clip else None, out)
        if best_share is None:
            scored = score_file(spec, source, out, shard_rows, Engine(engine, workers))
        else:
            scored, first_pass = score_best_share(spec, source, out, shard_rows, Engine(engine, workers), best_share)
            _show_first_pass(first_pass)
        _show(scored, source, out)


def _best_share(adaptive: bool, keep: float | None, clip: bool, form: str) -> float | None:
    """The share of --keep; None without --adaptive."""
    if adaptive != (keep is not None):
        raise UsageError("--adaptive and --keep go together: --adaptive --keep 0.3 finds the best 30 %")
    if keep is not None and not 0 < keep < 1:
        raise UsageError(f"--keep {keep}: needs a share above 0 and below 1")
    if adaptive and (clip or form == "tensors"):
        raise UsageError("--adaptive runs a part of a score model on a file's rows; it has no --clip and no tensors")
    return keep


def _show_first_pass(found: FirstPass | None) -> None:
    if found is None:
        typer.echo("all rows scored in full: the file is small, or the model has no cheaper part")
        return
    images = f"{100 * found.image_share:g} % of an image's tokens"
    part = f"{found.layers} layers, {images}, {100 * found.cost:.0f} % of the work"
    if found.work < 1:
        typer.echo(f"first pass: {part}; expected work in all {100 * found.work:.0f} %")
    else:
        typer.echo(
            f"all rows scored in full: the best first pass ({part}) leaves {100 * found.remaining:.0f} % of the rows, "
            f"{100 * found.work:.0f} % of the work in all"
        )


def _show(scored: ScoreCounts, source: SourceFile, out: Path) -> None:
    """Prints the counts. Raises DataError if no row has a score."""
    typer.echo(f"{scored.rows} rows scored: {out}")
    for note, count in sorted(scored.notes.items()):
        typer.echo(f"{count} of them: {note}")
    for reason, count in sorted(scored.quarantined.items()):
        typer.echo(f"{count} quarantined: {reason}")
    hint = ""
    if scored.quarantined["missing_image"]:
        from rsqa_pipeline.source_pairs.readers.read_source import images_folder

        hint = f"images were looked for in {images_folder(source)}; name their folder with --images"
    if scored.rows == 0:
        raise DataError(f"nothing scored: {source.path} gave no row with a score" + (f"; {hint}" if hint else ""))
    if hint:
        typer.echo(f"hint: {hint}", err=True)


def _spec(model: str, compute: Compute, batch_size: int, clip_text: ClipText | None, out: Path) -> ModelSpec:
    from rsqa_pipeline.curated_subsets.scoring.scorers import ModelSpec

    if clip_text is None:
        return ModelSpec("score_model", model, compute, batch_size)
    return ModelSpec("clip", model, compute, batch_size, clip_text, out.resolve().with_name(f"{out.stem}.embeddings"))


def _score_tensors(model: str, data: Path, out: Path) -> None:
    from rsqa_pipeline.curated_subsets.scoring.score_file import score_tensors
    from rsqa_pipeline.models.load import local_folder, weights_version
    from rsqa_pipeline.score_model.network.model import ScoreModel

    folder = local_folder(model)
    rows = score_tensors(ScoreModel.from_pretrained(folder), data, weights_version(folder), out)
    typer.echo(f"{rows} rows scored: {out}")
