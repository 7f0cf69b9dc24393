"""`mkdocs build --strict` makes the site without a warning, and the site asks no other host for anything it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rsqa_pipeline
from tests.docs.commands import ROOT

pytest.importorskip("mkdocs", reason="extra docs")
FETCHED = re.compile(r"<(?:script|img|source|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")


def build(out: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    done = build(out)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return out


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {folder.parent.name for folder in site.glob("*/index.html")} == pages
    index = (site / "index.html").read_text(encoding="utf-8")
    assert not [page for page in pages if f'href="{page}/"' not in index]


def test_the_index_page_leads_to_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.stem != "index" and f"]({page.name})" not in index
    ]


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    found = {match[0] for page in site.rglob("*.html") for match in FETCHED.finditer(page.read_text(encoding="utf-8"))}
    assert not found
    assert not [style for style in site.rglob("*.css") if re.search(r"url\([\"']?(https?:)?//", style.read_text())]


def test_the_reference_documents_the_public_api(site: Path) -> None:
    page = (site / "api/index.html").read_text(encoding="utf-8")
    for name in ("load_scorer", "score", "curate"):
        assert f'id="rsqa_pipeline.{name}"' in page and name in rsqa_pipeline.__all__
    for name in ("serving.client.RewardClient", "rl_policy.rewards.iou_reward", "profile.curated_subsets.SubsetRule"):
        assert f'id="rsqa_pipeline.{name}"' in page
    assert "fraction of the rows to keep" in page  # from a docstring


@pytest.mark.parametrize(
    ("link", "whole"),
    [
        ("other.md#a-heading", True),
        ("../mkdocs.yml", True),
        ("nosuch.md", False),
        ("other.md#no-such-heading", False),
        ("../no/such/file.py", False),
    ],
)
def test_a_broken_link_fails_the_build(link: str, whole: bool, tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "docs/mkdocs_links.py", root / "docs")
    (root / "docs/index.md").write_text(f"# Page\n\n[a link]({link})\n")
    (root / "docs/other.md").write_text("# Other\n\n## A heading\n")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (root / "mkdocs.yml").write_text(re.sub(r"nav:\n(?=  - index).*", "", settings, flags=re.DOTALL))
    done = build(tmp_path / "site", root)
    assert (done.returncode == 0) == whole, done.stderr
