"""`rsqa models`."""

from __future__ import annotations

from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import default_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_mlflow


def models(profile: ProfileOption = None) -> None:
    """List the registered models and the address of their registry, for mlflow.pyfunc.load_model.

    Models that came with `dvc pull` are registered first, addresses of a moved checkout follow it, and every version
    whose output is on disk gets its model card.
    """
    from rsqa_pipeline.materialization.materialize import writing

    settings = load_profile(profile or default_profile())
    if not settings.state.is_dir() and not settings.data.is_dir():
        raise UsageError(f"profile {settings.name} was not run here; make its models with `rsqa run`, or `dvc pull`")
    refuse_silent_mlflow()
    with writing(settings, "rsqa models"):
        from rsqa_pipeline.registration import describe_versions, register_all
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking

        tracking = MlflowTracking(settings)
        register_all(settings, tracking)
        describe_versions(settings, tracking)
    console = make_console()
    table = plain_table("model", "version", "aliases", "data version")
    versions = tracking.versions()
    for version in versions:
        made = version.tags.get("dvc.md5", "unfinished")
        number = str(version.version)
        aliases = [alias for alias, named in tracking.aliases(version.name).items() if named == number]
        table.add_row(version.name, number, ", ".join(aliases), made)
    console.print(table if versions else "no model is registered; `rsqa run` makes and registers them")
    console.print(f"registry: {tracking.uri}", soft_wrap=True)
