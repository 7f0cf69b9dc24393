"""`rsqa curate`: keep part of a file by its scores. `rsqa drift`: how far two versions' scores are apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rsqa_pipeline.cli.checks import refuse_bad_out, refuse_missing, source_file
from rsqa_pipeline.cli.score import BATCH_SIZE, SHARD_ROWS
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import Compute, SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule

if TYPE_CHECKING:
    from rsqa_pipeline.curated_subsets.selection.score_file import SelectionResult

STALE_SCORES = 3
"""Exit code: done, but rows were left out because their content is not what was scored."""


def curate(
    scores: Annotated[Path, typer.Option("--scores", help="Parquet of `rsqa score`: key and score.")],
    out: Annotated[Path, typer.Option("--out", help="What to write; rule, counts and reasons go to OUT.curation/.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="The scored file; without it OUT is a Parquet file of the kept keys.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Format of --data, as for `rsqa score`.")] = "llava",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: the file's.")] = None,
    keep: Annotated[
        float | None, typer.Option("--keep", help="Best share to keep, captions and instructions apart, in (0, 1].")
    ] = None,
    rule: Annotated[Path | None, typer.Option("--rule", help="YAML file of a rule, in place of --keep.")] = None,
    written_as: Annotated[
        str, typer.Option("--as", help="Format of OUT: same (as --data), llava, webdataset, hf or jsonl.")
    ] = "same",
    rescore: Annotated[
        str | None,
        typer.Option("--rescore", help="Score model: first score the rows of --data that are new or have changed."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random and drawn rules.", min=0)] = 0,
) -> None:
    """Keep the best part of a file by its scores, and say for every dropped row why.

    With --data, a score counts only for the image and text that were scored. If rows have changed since, they are
    dropped as stale_score and the exit code is 3; --rescore scores them.
    """
    from rsqa_pipeline.curated_subsets.selection.score_file import curate_data, curate_scores

    chosen = rule_of(keep, rule)
    if rescore is None:
        refuse_missing(scores, "--scores")
    elif data is None:
        raise UsageError("--rescore needs --data, the rows to score")
    refuse_bad_out(out, may_be_folder=data is not None)
    source = None if data is None else source_file(form, data, images)
    folder = out.with_name(f"{out.name}.curation")
    if source is None:
        done = curate_scores(scores, chosen, seed, folder)
        shutil.copyfile(folder / "ids.parquet", out)
    else:
        from rsqa_pipeline.curated_subsets.export import export

        if rescore is not None:
            _score_again(rescore, source, scores)
        done, keys = curate_data(scores, source, chosen, seed, folder)
        export(source, keys, out, written_as, _facts(scores, chosen, seed))
    _show(done, out, folder)
    if done.dropped["stale_score"]:
        raise typer.Exit(STALE_SCORES)


def _facts(scores: Path, rule: SubsetRule, seed: int) -> dict[str, str]:
    """Lines of an exported data set's card: how its rows were selected."""
    import pyarrow.dataset as ds

    facts = {"rule": rule.model_dump_json(exclude_defaults=True), "seed": str(seed)}
    codes = ds.ParquetReadOptions(dictionary_columns=["model_version"])  # few versions, so that a batch is small
    table = ds.dataset(scores, format=ds.ParquetFileFormat(read_options=codes))
    if "model_version" in table.schema.names:
        batches = table.to_batches(columns=["model_version"], batch_readahead=1, fragment_readahead=1)
        found = {version for batch in batches for version in batch["model_version"].unique().to_pylist()}
        facts["version of the score model"] = ", ".join(sorted(found - {None}))
    return facts


def _score_again(model: str, source: SourceFile, scores: Path) -> None:
    from rsqa_pipeline.curated_subsets.scoring.engines import Engine
    from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
    from rsqa_pipeline.curated_subsets.scoring.scorers import ModelSpec

    score_file(ModelSpec("score_model", model, Compute(), BATCH_SIZE), source, scores, SHARD_ROWS, Engine("local", 1))


def rule_of(keep: float | None, rule: Path | None) -> SubsetRule:
    """The rule of --keep or --rule, of which one must be given."""
    if (keep is None) == (rule is None):
        raise UsageError("give either --keep, a share in (0, 1], or --rule, a YAML file")
    if rule is not None:
        from rsqa_pipeline.curated_subsets.selection.score_file import read_rule

        return read_rule(rule)
    if not 0 < (keep or 0) <= 1:
        raise UsageError(f"--keep {keep}: needs a share above 0 and up to 1")
    return SubsetRule.model_validate(
        {"selector": "score_model", "caption_fraction": keep, "instruction_fraction": keep}
    )


def _show(done: SelectionResult, out: Path, folder: Path) -> None:
    from rsqa_pipeline.curated_subsets.selection.explain import vanished_groups

    console = make_console()
    if done.shares:
        table = plain_table("samples", "of", "kept", "share, %", "95 % interval")
        for row in done.shares:
            share = f"{100 * row['share']:.1f}", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
            gone = (" NOTHING KEPT", "bold red") if row["vanished"] else ""
            name = Text.assemble(f"{row['kind']}s, {row['by']} {row['value']}", gone)
            table.add_row(name, f"{row['samples']:,}", f"{row['kept']:,}", *share)
        console.print(table)
    console.print(f"{done.kept:,} kept: {out}")
    for reason, count in sorted(done.dropped.items()):
        console.print(f"{count:,} dropped: {reason}")
    console.print(f"rule, reasons and shares: {folder}")
    for lost in vanished_groups(done.shares):
        warning = f"WARNING: nothing is left of {lost}; a rule with `per` and `floor` keeps some"
        make_console(stderr=True).print(warning, style="bold red")


def drift(
    old: Annotated[Path, typer.Argument(help="Score file of the version before: key or sample_id, score.")],
    new: Annotated[Path, typer.Argument(help="Score file of a new model or corpus.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for drift.json and drift.png.")] = None,
) -> None:
    """Compare two score files: distributions by PSI and KS, ranks of common rows by Kendall's tau and top overlap."""
    from rsqa_pipeline.curated_subsets.drift import compare_scores, plot_drift, read_scores, write_drift

    before, after = read_scores(old), read_scores(new)
    found = compare_scores(before, after)
    table = plain_table("measure", "value")
    rows: list[tuple[str, Any]] = list(found.as_dict().items())
    for name, value in rows:
        table.add_row(name.replace("_", " "), "not defined" if value is None else f"{value:,.4g}")
    make_console().print(table)
    if out is not None:
        write_drift(found, out / "drift.json")
        plot_drift(before, after, (old.stem, new.stem), out / "drift.png")
