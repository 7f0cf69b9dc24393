"""The Dagster pages of a finished project in a real Chromium: the graph, and what an asset's page tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsqa_pipeline.data_quality.checks import DESCRIPTIONS, check_names
from rsqa_pipeline.stages import assets_of
from tests.pipeline.pages.conftest import DESKTOP, LOCAL, PHONE
from tests.pipeline.project import Project
from tests.state.running_ui import RunningUi, running_ui

pytestmark = pytest.mark.pipeline
Shown = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def ui(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUi]:
    with running_ui(project, tmp_path_factory.mktemp("ui")) as started:
        started.asset_names()
        yield started


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def shown(chromium: Any, ui: RunningUi, request: pytest.FixtureRequest) -> Iterator[Shown]:
    """Opens a page of Dagster and waits for a text. At the end nothing has failed or left this machine."""
    width, height = request.param
    # Dagster reads the language, which a machine without one set calls "en-US@posix"
    context = chromium.new_context(viewport={"width": width, "height": height}, locale="en-US")
    faults: list[str] = []

    def open_page(path: str, text: str) -> Any:
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", lambda reply: faults.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None)
        page.on("request", lambda sent: None if LOCAL.match(sent.url) else faults.append(f"request to {sent.url}"))
        page.goto(f"http://127.0.0.1:{ui.port}{path}")
        page.wait_for_selector(f"text={text}", state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        return page

    yield open_page
    assert faults == []
    context.close()


def test_the_graph_shows_every_stage(shown: Shown, project: Project) -> None:
    page = shown("/asset-groups", "rl_policy")
    text = page.inner_text("body")
    assert [asset.stage for asset in assets_of(project.profile).values() if asset.stage not in text] == []


def test_an_asset_shows_what_it_is_what_it_took_and_what_it_measured(shown: Shown, project: Project) -> None:
    asset = assets_of(project.profile)["score_model"]
    text = shown("/assets/score_model", "metric/heldout_accuracy").inner_text("body")
    assert asset.description in text
    for key in ("peak_memory_mib", "cpu_seconds", "git_commit", "mlflow_run", "plot/training", "metric/train_loss"):
        assert key in text


def test_a_check_says_what_it_checks_and_what_it_found(shown: Shown, project: Project) -> None:
    (check,) = check_names(assets_of(project.profile)["score_model"])
    text = shown("/assets/score_model?view=checks", "all finite").inner_text("body")
    assert check in text and DESCRIPTIONS[check] in text and "Passed" in text and "blocking" in text
