"""The table of stages, and everything that must agree with it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsqa_pipeline.cli.stages_diagram import _edges, stages_svg
from rsqa_pipeline.dvc_files.stages import dvc_yaml
from rsqa_pipeline.materialization.materialize import settings_of
from rsqa_pipeline.profile import default_profile, known_profiles, load_profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.stages import STAGES, assets_of
from rsqa_pipeline.stages.asset_names import downstream, in_stage

ASSETS = assets_of(load_profile("demo"))
ORCHESTRATORS = {"dagster", "dvc", "dvc_data", "assets"}


def test_inputs_come_earlier_in_the_table_and_stages_in_order() -> None:
    seen: list[str] = []
    order = list(STAGES)
    for asset in ASSETS.values():
        assert set(asset.inputs) <= set(seen), asset.name
        assert all(order.index(ASSETS[name].stage) <= order.index(asset.stage) for name in asset.inputs), asset.name
        seen.append(asset.name)


@pytest.mark.parametrize("name", known_profiles())
def test_every_function_and_key_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsqa_pipeline.profile.loading._missing_paths", lambda settings: [])  # paths of others
    profile = load_profile(name)
    for asset in assets_of(profile).values():
        assert callable(asset.load()), asset.name
        assert set(settings_of(profile, asset)) >= set(asset.keys), asset.name


def test_a_subset_is_a_line_of_the_profile() -> None:
    """One more subset is one more asset of each kind, and nothing else changes but what gathers all of them."""
    profile = load_profile("demo")
    rule = SubsetRule(selector="oracle", caption_fraction=0.1)
    subsets = {**profile.curated_subsets.subsets, "oracle_p10": rule}
    larger = profile.model_copy(
        update={"curated_subsets": profile.curated_subsets.model_copy(update={"subsets": subsets})}
    )
    more = assets_of(larger)
    assert set(more) - set(ASSETS) == {"subset_oracle_p10", "clip_oracle_p10", "vlm_oracle_p10"}
    changed = {name for name in ASSETS if ASSETS[name] != more[name]}
    assert changed == {"clip_benchmark", "vlm_benchmark", "curation_report", "lineage_manifest"}


def test_downstream_of_captions_leaves_independent_assets_out() -> None:
    below = downstream(ASSETS, "image_text_pairs")
    assert "score_model" in below and "curation_report" in below
    assert not {"instruction_samples", "benchmark_sets", "text_preferences"} & set(below)


def test_library_imports_no_orchestrator() -> None:
    """Reads every import statement of the library, those inside functions too."""
    for path in sorted(Path("rsqa_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found = {name.partition(".")[0] for name in names} & ORCHESTRATORS
            allowed = {"assets"} if path.parent.name == "cli" else set()  # the command line is a door, not a stage
            assert not found - allowed, f"{path}:{getattr(node, 'lineno', '?')} imports {found}"


def test_loading_every_stage_loads_no_orchestrator() -> None:
    code = (
        "import sys; from rsqa_pipeline.stages import assets_of; import rsqa_pipeline.cli.main\n"
        "from rsqa_pipeline.profile import load_profile\n"
        "[asset.load() for asset in assets_of(load_profile('demo')).values()]\n"
        f"found = sorted({ORCHESTRATORS!r} & set(sys.modules)); sys.exit(f'loaded {{found}}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_imports_run_one_way() -> None:
    """A stage may use an earlier stage's code, never a later one's."""
    order = list(STAGES)
    for path in sorted(Path("rsqa_pipeline").rglob("*.py")):
        stage = path.relative_to("rsqa_pipeline").parts[0]
        if stage not in order:
            continue
        used = re.findall(r"from rsqa_pipeline\.(\w+)", path.read_text(encoding="utf-8"))
        later = {name for name in used if name in order and order.index(name) > order.index(stage)}
        assert not later, f"{path} uses {later}"


def test_dvc_yaml_is_the_table() -> None:
    name = default_profile()
    written = Path("dvc.yaml").read_text(encoding="utf-8")
    assert written == dvc_yaml(name, load_profile(name)), "run `rsqa stages --dvc > dvc.yaml`"
    stages = yaml.safe_load(written)["stages"]
    assert list(stages) == list(ASSETS)


def test_the_picture_in_the_docs_is_the_table() -> None:
    written = Path("docs/images/stages.svg").read_text(encoding="utf-8")
    assert written == stages_svg(ASSETS), "run `rsqa stages --svg > docs/images/stages.svg`"
    boxes = re.findall(r">(\w+)(\*?)(?: \(\d+\))?</text>", written)
    assert all(any(name == box or (star and name.startswith(box)) for box, star in boxes) for name in ASSETS)
    assert ("subset_", "*") in boxes and ("reasoning_model", "") in boxes


def test_the_picture_leaves_out_arrows_that_follow_from_others() -> None:
    edges = set(_edges(ASSETS))
    assert ("score_head", "caption_score_model") in edges and ("subset_*", "vlm_*") in edges
    assert ("base_models", "vlm_*") not in edges and "base_models" in ASSETS["vlm_all"].inputs
    assert not [end for _, end in edges if ASSETS.get(end) and ASSETS[end].stage == "report"]


def test_dagster_graph_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSQA_PROFILE", "demo")
    from assets.code_location import build

    graph = build("demo").resolve_asset_graph()
    edges = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert edges == {asset.name: set(asset.inputs) for asset in ASSETS.values()}
    for asset in ASSETS.values():
        node = graph.get(next(k for k in graph.get_all_asset_keys() if k.to_user_string() == asset.name))
        assert node.group_name == asset.stage
        assert node.pools == ({"gpu"} if asset.gpu else set())


def test_readme_lists_the_stages_in_order() -> None:
    listed = re.findall(r"^├── (\w+)/|^└── (\w+)/", Path("README.md").read_text(encoding="utf-8"), flags=re.M)
    named = [a or b for a, b in listed]
    assert [name for name in named if name in STAGES] == list(STAGES)


def test_every_asset_stands_in_the_readme() -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    assert [stage for stage in STAGES if not all(f"`{a.name}`" in text for a in in_stage(ASSETS, stage))] == []
