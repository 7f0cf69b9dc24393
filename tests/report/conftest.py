"""Two synthetic runs and their pages, built once: one with known truth, one on images with recorded faults."""

from __future__ import annotations

import pytest

from tests.report.synthetic_run import Page, make_page


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="session")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(tmp_path_factory.mktemp("unknown"), truth_known=False, faults=("class_swap", "vague"))
