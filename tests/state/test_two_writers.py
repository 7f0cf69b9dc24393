"""Two writers of one profile: one works, the other is refused by name, and no output is empty or mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import EMPTY_VERSION, manifests
from rsqa_pipeline.materialization.materialize import current_manifest, materialize, writing
from rsqa_pipeline.materialization.profile_lock import profile_lock
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import ROOT, Project
from tests.state.conftest import rsqa

ROUNDS = int(os.environ.get("RSQA_RACE_ROUNDS", "8"))
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
_HOLD = """
import sys
from pathlib import Path
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.materialization.profile_lock import profile_lock
with profile_lock(Profile.model_construct(name=sys.argv[1]), "Dagster run 1a2b3c4d"):
    print("held", flush=True)
    sys.stdin.readline()
"""
_DAGSTER_DOOR = """
import sys
from dagster._cli import create_dagster_cli
for _ in sys.stdin:
    words = ["asset", "materialize", "--select", "text_preferences", "-m", "assets.definitions"]
    try:
        create_dagster_cli().main(words, standalone_mode=False)
        print("\\nmade", flush=True)
    except Exception as error:
        print(f"{error}\\nfailed", flush=True)
"""


def holder(root: Path, name: str) -> subprocess.Popen[str]:
    """A process that holds the lock of a profile until its input ends."""
    words = [sys.executable, "-c", _HOLD, name]
    process = subprocess.Popen(words, cwd=root, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_two_processes_never_leave_an_empty_or_mixed_output(settings: dict[str, Any], tmp_path: Path) -> None:
    versions, processes = set(), []
    for name, pairs in (("one", 24), ("two", 30)):
        settings["preference_data"]["text_pairs"] = pairs
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
        profile = Profile.model_validate(settings)
        versions.add(
            materialize(profile, assets_of(profile)["text_preferences"], {}, SilentLogger()).manifest.data_version
        )
        words = [sys.executable, "-m", "tests.state.writer", f"{name}.json", str(ROUNDS), f"{name}.txt"]
        processes.append(
            subprocess.Popen(
                words, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        printed = process.communicate(timeout=100 + 8 * ROUNDS)[0]
        assert process.returncode == 0, printed
    lines = [line for name in ("one", "two") for line in Path(f"{name}.txt").read_text().splitlines()]
    refused = [line for line in lines if line.startswith("refused: ")]
    assert refused and len(lines) - len(refused) == 2 * ROUNDS
    assert all("is being written by" in line and "wait for it to finish" in line for line in refused), refused
    assert set(lines) - set(refused) <= versions and len(versions) == 2
    folder = profile.data / "preference_data" / "text_preferences"
    assert folder_version(folder) in versions
    history = manifests(profile).history("text_preferences")
    assert len(history) == 2 + 2 * ROUNDS and {made.data_version for made in history} == versions
    assert [path.name for path in folder.parent.iterdir()] == ["text_preferences"]


def test_every_door_is_refused_while_another_process_writes(made_project: Project) -> None:
    process = holder(made_project.root, "smoke")
    with dagster_door(made_project) as door:
        try:
            refusal = f"being written by Dagster run 1a2b3c4d (process {process.pid}"
            assert refusal in rsqa(made_project, "run", "text_preferences", code=1)
            assert refusal in rsqa(made_project, "promote", code=1)
            refused = materialize_through(door)
            assert refused.endswith("failed\n") and refusal in refused
        finally:
            process.communicate("\n", timeout=30)
        made = materialize_through(door)
        assert made.endswith("made\n"), made
    assert "0 assets computed, 1 unchanged" in rsqa(made_project, "run", "--quiet", "text_preferences")


def dagster_door(project: Project) -> subprocess.Popen[str]:
    """`dagster asset materialize` as a person or the Dagster UI starts it, not through `rsqa run`; it runs once per
    line of its input. One process, because importing Dagster takes longest."""
    env = {**project.env, "DAGSTER_HOME": str(project.root / ".rsqa/smoke/dagster"), "DAGSTER_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _DAGSTER_DOOR],
        cwd=project.root,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def materialize_through(door: subprocess.Popen[str]) -> str:
    """Everything that one materialization printed; its last line is ``made`` or ``failed``."""
    assert door.stdin is not None and door.stdout is not None
    door.stdin.write("\n")
    door.stdin.flush()
    printed = ""
    while not printed.endswith(("\nmade\n", "\nfailed\n")):
        line = door.stdout.readline()
        assert line, printed
        printed += line
    return printed


def test_the_lock_is_free_after_a_kill_and_can_be_taken_twice_by_its_holder(profile: Profile, tmp_path: Path) -> None:
    process = holder(tmp_path, profile.name)
    with pytest.raises(DataError, match="Dagster run 1a2b3c4d"), writing(profile, "rsqa run"):
        pass
    process.kill()
    process.wait()
    with profile_lock(profile, "rsqa run"), profile_lock(profile, "an asset"):
        pass
    assert (profile.state / "run.lock").read_bytes() == b""


def test_an_empty_output_is_neither_swapped_in_nor_recorded_nor_current(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    monkeypatch.setattr(type(asset), "load", lambda _: lambda *_args, **_more: {"kept_rows": 0.0})
    with pytest.raises(DataError, match="holds no file"):
        materialize(profile, asset, {}, SilentLogger(), force=True)
    assert folder_version(good.folder) == good.manifest.data_version
    from dataclasses import replace

    store = manifests(profile)
    empty = replace(good.manifest, data_version=EMPTY_VERSION)
    with pytest.raises(DataError, match="empty output is not recorded"):
        store.append(empty)


def test_an_output_emptied_or_changed_in_place_is_made_again(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    table = next(path for path in good.folder.rglob("*.parquet"))
    times, content = table.stat(), bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    with table.open("r+b") as file:  # in place, same size, same time of change
        file.write(content)
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert current_manifest(profile, asset, manifests(profile)) is None
    for path in good.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    again = materialize(profile, asset, {}, SilentLogger())
    assert not again.reused and again.manifest.data_version == good.manifest.data_version


def test_what_a_killed_writer_left_is_cleared_and_a_begun_swap_is_undone(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    (good.folder.parent / ".caption_preferences.scratch-1-ab").mkdir()
    (good.folder.parent / ".text_preferences.scratch").mkdir()
    good.folder.rename(good.folder.with_name(".text_preferences.old"))
    assert materialize(profile, asset, {}, SilentLogger()).reused
    assert [path.name for path in good.folder.parent.iterdir()] == ["text_preferences"]
