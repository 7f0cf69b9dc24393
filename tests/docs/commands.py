"""The shell commands of the documents, and which test runs those that `test_commands` does not run itself."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    """Path from the root, e.g. ``docs/ci.md``."""
    text: str
    """As it stands, without its comment."""

    @property
    def words(self) -> list[str]:
        """Its words, without variables that are set for it and without a redirection at its end."""
        words = shlex.split(self.text)
        while len(words) > 1 and _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        return words[: words.index(">")] if ">" in words else words

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks of one language."""
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands_of(page: Path) -> list[Command]:
    """The commands of a page in order: lines of ``sh`` blocks, and lines of other blocks after a prompt ``$``."""
    lines = []
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        prompted = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        lines += block.splitlines() if language == "sh" else prompted
    found, started = [], ""
    for line in lines:
        started += line
        try:
            words = shlex.split(started, comments=True)
        except ValueError:  # quoted text goes on in the next line
            started += "\n"
            continue
        if words:
            text = started if "\n" in started else re.sub(r"\s+#\s.*$", "", started)
            found.append(Command(page.relative_to(ROOT).as_posix(), text.strip()))
        started = ""
    assert not started, f"{page.name}: quoted text without an end: {started}"
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page)]

NOT_RUN = {
    "git clone": "needs the network",
    "cd rsqa-pipeline": "of the shell",
    "source .venv/bin/activate": "of the shell",
    "pip install": "needs a registry; that the extra exists is tested",
}
"""Beginnings of commands that no test can run, and why."""

RUN_ELSEWHERE = {
    "README.md": {
        "make demo": "tests/pipeline/conftest.py::project",
        "make test": ".ci/run",
        "rsqa serve": "tests/serving/test_docs.py::test_the_command_that_starts_it",
        "rsqa ui": "tests/state/test_ui.py::test_the_ui_lists_the_assets_and_stops_at_once",
        "dvc": "tests/pipeline/conftest.py::project",
        **dict.fromkeys(
            [f"rsqa {verb}" for verb in ("run", "trace", "audit", "models", "lineage export", "evidence", "promote")]
            + ["rsqa plan --profile rsicd"],
            "tests/pipeline/test_readme.py::test_the_commands_about_a_profile",
        ),
        "rsqa forget": "tests/pipeline/test_forget.py::test_a_request_from_listing_to_proof",
    },
    "CONTRIBUTING.md": {"make install": ".github/workflows/retrain.yml", "make test": ".ci/run"},
    "docs/ci.md": {
        "rsqa retrain --since origin/main --dry-run": ".github/workflows/retrain.yml",
        "rsqa retrain --since origin/main --summary": (
            "tests/pipeline/test_retrain.py::test_a_failed_asset_fails_the_command_and_the_summary_says_why"
        ),
    },
    "docs/deploy.md": {"": "tests/pipeline/test_shared_services.py::test_two_runs_at_once_and_one_killed"},
    "docs/evidence_package.md": {"": "tests/pipeline/test_evidence.py::test_the_commands_of_the_docs"},
    "docs/explorer.md": {"": "tests/explorer/test_docs.py::test_the_commands_run"},
    "docs/lineage.md": {
        "rsqa trace": "tests/pipeline/test_audit.py::test_the_commands_of_the_docs",
        "rsqa audit": "tests/pipeline/test_audit.py::test_the_commands_of_the_docs",
        "rsqa forget": "tests/pipeline/test_forget.py::test_a_request_from_listing_to_proof",
        "rsqa lineage export": "tests/pipeline/test_evidence.py::test_the_commands_of_the_docs",
        "rsqa models": "tests/state/test_registry_after_pull.py::test_the_docs_example_scores_in_a_second_clone",
    },
    "docs/many_gpus.md": {"CUDA_VISIBLE_DEVICES=0 rsqa run": "tests/pipeline/conftest.py::project"},
    "docs/own_data.md": {
        "rsqa init": "tests/pipeline/test_own_data.py::test_the_example_runs_to_the_curated_subsets",
        "rsqa run": "tests/pipeline/test_own_data.py::test_the_example_runs_to_the_curated_subsets",
    },
    "docs/preferences.md": {"": "tests/preference_data/test_labels.py::test_commands_in_the_docs_run"},
    "docs/reward_server.md": {
        "rsqa serve": "tests/serving/test_docs.py::test_the_command_that_starts_it",
        "curl": "tests/serving/test_docs.py::test_a_request_with_curl",
    },
}
"""Page -> beginning of a command -> the test, or the file of CI, that runs it. Every other command runs in
`test_commands`."""


def run_elsewhere(command: Command) -> str | None:
    """The test or file of CI that runs the command, None if `test_commands` has to."""
    begins = [prefix for prefix in RUN_ELSEWHERE.get(command.page, {}) if command.text.startswith(prefix)]
    return RUN_ELSEWHERE[command.page][max(begins, key=len)] if begins else None


def is_not_run(command: Command) -> bool:
    return command.text.startswith(tuple(NOT_RUN))
