"""`rsqa explore`: a scored corpus as an offline page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsqa_pipeline.cli.checks import refuse_bad_out, refuse_missing, source_file
from rsqa_pipeline.cli.curate import rule_of
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import load_profile

SAMPLES = 10_000
KEEP = 0.3


def explore(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; open its index.html.")],
    scores: Annotated[Path | None, typer.Argument(help="Parquet of `rsqa score`; or give --profile.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Profile whose outputs are finished.")] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", help="With --profile: whose decisions; default: by the score model.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The scored file; without it no texts are shown.")] = None,
    form: Annotated[str, typer.Option("--format", help="Format of --data, as for `rsqa score`.")] = "llava",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: the file's.")] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="Best share to keep; default: 0.3.")] = None,
    rule: Annotated[Path | None, typer.Option("--rule", help="YAML file of a rule, in place of --keep.")] = None,
    samples: Annotated[int, typer.Option("--samples", help="At most this many, drawn by hash.", min=1)] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Of random and drawn rules.", min=0)] = 0,
) -> None:
    """Write a page to look through scored samples, see what a rule keeps and why, and mark samples by hand.

    The page needs no server and no network. `rsqa labels marks` reads the marks that are downloaded from it.
    """
    from rsqa_pipeline.explorer.build import refuse_used_folder, write_page

    if (scores is None) == (profile is None):
        raise UsageError("give either a score file or --profile")
    refuse_bad_out(out, may_be_folder=True)
    refuse_used_folder(out)
    if profile is not None:
        if data is not None or images is not None or keep is not None or rule is not None:
            raise UsageError("--data, --images, --keep and --rule go with a score file, not with --profile")
        from rsqa_pipeline.explorer.from_profile import read_profile

        exploration = read_profile(load_profile(profile), subset, samples)
    else:
        assert scores is not None
        if subset is not None:
            raise UsageError("--subset goes with --profile; use --keep or --rule with a score file")
        from rsqa_pipeline.explorer.from_scores import read_score_file

        refuse_missing(scores, "SCORES")
        chosen = rule_of(KEEP if keep is None and rule is None else keep, rule)
        source = None if data is None else source_file(form, data, images)
        exploration = read_score_file(scores, chosen, source, samples, seed)
    unseen = write_page(exploration, out)
    shown = len(exploration.samples)
    typer.echo(f"{shown:,} of {exploration.total:,} samples: {out / 'index.html'}")
    if unseen:
        typer.echo(f"{unseen:,} images cannot be shown; the page says why")
