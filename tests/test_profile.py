"""`profile`: shipped profiles load; every fault of a broken one stands in one message."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.errors import ProfileError
from rsqa_pipeline.profile import PROFILE_FOLDER, known_profiles, limited_profile, load_profile
from rsqa_pipeline.profile.yaml_file import read_yaml
from rsqa_pipeline.stages import assets_of
from tests.profile_files import DEMO, demo_settings, faults, load


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return demo_settings(tmp_path)


def test_demo_loads(settings: dict[str, Any], tmp_path: Path) -> None:
    profile = load(settings, tmp_path)
    assert (profile.name, profile.data) == ("demo", Path("data/demo"))


def test_rsicd_loads_where_its_data_is(shared_data: Path) -> None:
    if not Path("../shared/rsicd").is_dir():
        pytest.skip("profile rsicd names ../shared/rsicd, which is not there")
    assert load_profile("rsicd").source_pairs.captions.corruption is not None


def test_the_paper_profile_lacks_nothing_but_its_data() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("paper")
    assert caught.value.faults and all("no such file or folder: data/paper/" in f for f in caught.value.faults)


@pytest.mark.parametrize("left_out", ["captions", "instructions"])
def test_ablations_leave_phases_out(left_out: str) -> None:
    phases = load_profile(f"demo_without_{left_out}").score_model.phases
    assert (phases.caption is None, phases.instruction is None) == (left_out == "captions", left_out == "instructions")


def test_shipped_profiles_have_the_same_sections() -> None:
    for name in known_profiles():
        content = yaml.safe_load((PROFILE_FOLDER / f"{name}.yaml").read_text())
        assert "extends" in content or set(content) == set(DEMO), name


def test_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match=r"known profiles: .*demo.*rsicd") as caught:
        load_profile("nosuch")
    assert "nosuch" in str(caught.value)


def test_every_fault_is_told_at_once(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["seed"] = "seven"
    settings["score_model"]["actvation"] = "none"
    settings["source_pairs"]["preference_share"] = 1.5
    settings["source_pairs"]["captions"]["path"] = "no/such.csv"
    settings["source_pairs"]["benchmarks"] = {"format": "karpathy"}
    settings["source_pairs"]["duplicates"] = {"benchmarks": {"dior": {"format": "csv", "pth": "x"}}}
    settings["tiny_models"]["vlm"] = "scratch"
    diverse = {"selector": "all", "diverse": {"embeddings": "no/such.parquet", "top": 1}}
    settings["curated_subsets"]["subsets"]["all"] = {"any_of": [diverse, {"selector": "best"}]}
    settings["curated_subsets"]["subsets"]["random_p30s60"] = {"selector": "random", "floor": 2}
    del settings["report"]
    found = "\n".join(faults(settings, tmp_path))
    for part in (
        "seed: ", "'seven'",
        "score_model.actvation: unknown key; known here: activation, bootstrap_heads, fsdp, ",
        "source_pairs.preference_share: ", "1.5",
        "source_pairs.captions.path: no such file or folder: no/such.csv",
        "source_pairs.benchmarks.path: is needed with format 'karpathy'",
        "source_pairs.duplicates.benchmarks.dior.path: is needed with format 'csv'",
        "source_pairs.duplicates.benchmarks.dior.pth: unknown key; known here: bands, boxes, caption_prompts, ",
        "tiny_models.scratch: is needed",
        "curated_subsets.subsets.all.any_of.0.diverse.embeddings: no such file or folder: no/such.parquet",
        "curated_subsets.subsets.all.any_of.1.selector: ", "'best'",
        "curated_subsets.subsets.random_p30s60: floor needs per: the column whose groups it is for",
        "report: is missing",
    ):  # fmt: skip
        assert part in found
    assert len(found.splitlines()) == 12


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "must hold a mapping"),
        ("- a\n- b\n", "must hold a mapping of sections, found list"),
        ("seed: [1\n", "cannot be read"),
        ("name: \x00\n", "cannot be read"),
        ("source_pairs: 7\n", "source_pairs: "),
        ("source_pairs: {captions: [1, 2], instructions: {path: 3}}\n", "source_pairs.captions"),
        ("extends: nosuch\n", "known profiles"),
    ],
)
def test_broken_files_are_faults_not_crashes(content: str, expected: str, tmp_path: Path) -> None:
    assert expected in "\n".join(faults(content, tmp_path))


def test_profile_of_other_bytes_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(str(tmp_path / "profile.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ProfileError, match="no file"):
        load_profile(str(tmp_path / "folder.yaml"))


def test_path_that_no_file_can_have(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["source_pairs"]["captions"]["path"] = "nul\0.csv"
    settings["source_pairs"]["instructions"]["images"] = "x" * 5000
    found = faults(settings, tmp_path)
    assert [fault.split(":")[0] for fault in found] == [
        "source_pairs.captions.path",
        "source_pairs.instructions.images",
    ]


def test_one_fault_pairs_need_scenes(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,text\n")
    settings["source_pairs"]["captions"] = {"format": "csv", "path": str(tmp_path / "captions.csv")}
    settings["preference_data"]["one_fault_pairs"] = {"place": 5}
    assert any("one_fault_pairs needs scenes" in fault for fault in faults(settings, tmp_path))
    settings["preference_data"]["one_fault_pairs"] = None
    assert load(settings, tmp_path).preference_data.one_fault_pairs is None


def test_extends_merges_and_refuses_circles(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings))
    child = {"extends": str(tmp_path / "base.yaml"), "name": "child", "score_model": {"max_length": 99}}
    profile = load(child, tmp_path)
    assert (profile.name, profile.score_model.max_length, profile.score_model.activation) == ("child", 99, "none")
    circle = {"extends": str(tmp_path / "profile.yaml")}
    assert "extends itself" in faults(circle, tmp_path)[0]


def test_steps_replace_inherited_epochs_and_epochs_inherited_steps(settings: dict[str, Any], tmp_path: Path) -> None:
    assert "epochs" in settings["finetuned_models"]["clip"]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings))
    steps = {"extends": str(tmp_path / "base.yaml"), "finetuned_models": {"clip": {"steps": 12}}}
    clip = load(steps, tmp_path).finetuned_models.clip
    assert (clip.steps, clip.total_steps(100), clip.batch_size) == (
        12,
        12,
        settings["finetuned_models"]["clip"]["batch_size"],
    )
    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(steps))
    epochs = {"extends": str(tmp_path / "steps.yaml"), "finetuned_models": {"clip": {"epochs": 3}}}
    clip = load(epochs, tmp_path).finetuned_models.clip
    assert (clip.steps, clip.total_steps(100)) == (None, 300)
    both = {"extends": str(tmp_path / "base.yaml"), "finetuned_models": {"clip": {"epochs": 3, "steps": 12}}}
    assert "needs epochs or steps, not both" in faults(both, tmp_path)[0]


def test_settings_cannot_be_changed_after_loading(settings: dict[str, Any], tmp_path: Path) -> None:
    profile = load(settings, tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        profile.seed = 8


def test_limited_profile_is_another_profile(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "whole.yaml"
    settings["finetuned_models"]["seeds"] = [7, 8]
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    limited = load_profile(str(limited_profile(str(path), 40)))
    assert limited.name == "demo-limit-40" and limited.source_pairs.benchmarks is not None
    assert {limited.source_pairs.captions.limit, limited.source_pairs.benchmarks.limit} == {40}
    assert limited.finetuned_models.seeds == [7]
    with pytest.raises(ProfileError, match="at least 30"):
        limited_profile(str(path), 29)


BOMBS = {
    "alias bomb": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "merge bomb": "m0: &m0 {k: 1}\n"
    + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 12)),
    "alias in itself": "a: &a [*a]\n",
    "unknown alias": "a: *nowhere\n",
    "deep flow": "a: " + "[" * 40_000 + "\n",
    "deep mappings": "".join(" " * n + f"k{n}:\n" for n in range(200)),
    "huge file": "name: " + "x" * 200_000_000,
    "huge value": "name: " + "x" * 20_000,
    "huge number": "seed: " + "9" * 5_000 + "\n",
    "huge hexadecimal": "seed: 0x" + "f" * 9_000 + "\n",
    "many values": "a: [" + "1," * 30_000 + "]\n",
    "repeated section": "name: a\nseed: 1\nname: b\n",
    "repeated key below": "compute: {device: cpu, device: cuda}\n",
    "repeated quoted key": "name: a\n'name': b\n",
    "python tag": "a: !!python/object/apply:os.system [ls]\n",
    "empty int tag": "a: !!int ''\n",
    "no such date": "a: 2020-13-45\n",
    "no digits": "a: 0x_\n",
    "a list as key": "? [a]\n: 1\n",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_hostile_yaml_is_one_line_within_seconds(content: str, tmp_path: Path) -> None:
    start = time.monotonic()
    found = faults(content, tmp_path)
    assert time.monotonic() - start < 60  # unbounded, it would never end
    assert len(found) == 1 and len(found[0].splitlines()) == 1
    assert "cannot be read" in found[0] and len(found[0]) < 500 + len(str(tmp_path))


def test_alias_and_merge_of_sensible_size_load(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("rule: &r {a: 1, b: [2]}\nother: {<<: *r, a: 3}\n")
    assert read_yaml(tmp_path / "base.yaml") == {"rule": {"a": 1, "b": [2]}, "other": {"a": 3, "b": [2]}}


@pytest.mark.parametrize("base", [7, 0, False, None, "", ["demo"], {"a": "demo"}, 1.5, "x" * 5_000, "a\nb", "nul\0"])
def test_extends_of_a_wrong_type(base: Any, tmp_path: Path) -> None:
    found = faults({"extends": base}, tmp_path)
    assert len(found) == 1 and len(found[0].splitlines()) == 1
    assert found[0].startswith("extends: needs the name or path of one profile")


@pytest.mark.parametrize(("length", "refused"), [(9, False), (10, True), (2_000, True)])
def test_chain_of_extends_is_limited(length: int, refused: bool, settings: dict[str, Any], tmp_path: Path) -> None:
    for number in range(length):
        below = settings if number == 0 else {"extends": str(tmp_path / f"{number - 1}.yaml")}
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(below))
    top = {"extends": str(tmp_path / f"{length - 1}.yaml")}
    if refused:
        assert "chain of more than 10 profiles" in faults(top, tmp_path)[0]
    else:
        assert load(top, tmp_path).name == "demo"


def test_circle_of_several_profiles(tmp_path: Path) -> None:
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {tmp_path}/{other}.yaml\n")
    with pytest.raises(ProfileError, match=r"extends itself: .*a\.yaml -> .*b\.yaml -> .*c\.yaml -> .*a\.yaml"):
        load_profile(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@host/v1",
        "https://hunter2@host/v1",
        "htp://user:hunter2@host/v1",
        "https://host/v1?api_key=hunter2",
        "https://host/v1?a=1&X-Amz-Signature=hunter2",
        "s3://host/v1?Token=hunter2",
    ],
)
@pytest.mark.parametrize("place", ["url", "path", "unknown key", "extends", "list for a section"])
def test_secrets_in_urls_are_refused_and_not_quoted(
    url: str, place: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    server = {"model": "m", "server": {"url": url}}
    changes: dict[str, tuple[dict[str, Any], str, Any]] = {
        "url": (settings["preference_data"], "models", {"judge": server}),
        "path": (settings["source_pairs"]["captions"], "path", url),
        "unknown key": (settings, url, 1),
        "extends": (settings, "extends", url),
        "list for a section": (settings, "compute", [url]),
    }
    section, key, value = changes[place]
    section[key] = value
    found = "\n".join(faults(settings, tmp_path))
    assert "api_key_env" in found and "hunter2" not in found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf"])
def test_numbers_must_be_finite_everywhere(value: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    for where in _float_keys(load(settings, tmp_path).model_dump()):
        changed = copy.deepcopy(settings)
        section = changed
        for part in where[:-1]:
            section = section.setdefault(part, {}) if isinstance(section, dict) else section[part]
        section[where[-1]] = value
        assert any(fault.startswith(".".join(map(str, where))) for fault in faults(changed, tmp_path)), where
    subset = next(iter(settings["curated_subsets"]["subsets"].values()))
    subset["threshold"] = value
    assert "threshold" in "\n".join(faults(settings, tmp_path))


def _float_keys(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in _float_keys(part, (*where, key))]
    return [where] if isinstance(value, float) and len(where) < 4 else []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"epochs": 2, "steps": 100}, "needs epochs or steps, not both"),
        ({"train": ["lora", "language"], "lora_rank": 4, "lora_alpha": 4}, "name one of the two"),
        ({"train": ["connector", "lora"], "lora_rank": None}, "lora needs lora_rank and lora_alpha"),
        ({"train": []}, "at least 1 item"),
        ({"train": ["tower"]}, "'connector', 'embeddings', 'language' or 'lora'"),
        ({"caption_replay": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_fine_tuning_step_that_cannot_be_is_refused(
    step: dict[str, Any], said: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["finetuned_models"]["vlm_instructions"].update(step)
    assert said in "\n".join(faults(settings, tmp_path))


@hypothesis.settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 9)), min_size=1, max_size=4))
def test_mutated_profiles_load_or_are_faults(edits: list[tuple[float, bytes, int]]) -> None:
    content = yaml.safe_dump(DEMO).encode()
    for place, inserted, removed in edits:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.yaml"
        path.write_bytes(content)
        with contextlib.suppress(ProfileError):
            load_profile(str(path))


@pytest.mark.parametrize(
    ("vlm", "asset", "policy"),
    [
        (None, "vlm_score_model_p30s60", False),
        ("all", "vlm_all", False),
        ("rl_policy", "rl_policy", True),
        ("rl_policy_rules_only", "rl_policy_rules_only", True),
    ],
)
def test_the_vlm_of_best_of_n_is_the_profiles_choice(
    settings: dict[str, Any], tmp_path: Path, vlm: str | None, asset: str, policy: bool
) -> None:
    settings["benchmarks"]["best_of_n"]["vlm"] = vlm
    found = assets_of(load(settings, tmp_path))["best_of_n_benchmark"]
    assert asset in found.inputs
    assert found.options == {"vlm": asset, "policy": policy}


def test_best_of_n_needs_a_vlm_that_is_made(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["benchmarks"]["best_of_n"]["vlm"] = "vlm_all"
    (fault,) = faults(settings, tmp_path)
    assert "benchmarks.best_of_n.vlm: 'vlm_all' is neither a subset nor a policy; known: all," in fault


def test_seeds_in_parallel_and_a_launcher_exclude_each_other(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["finetuned_models"]["parallel_seeds"] = 2
    assert load(settings, tmp_path).finetuned_models.parallel_seeds == 2
    settings["compute"] = {**settings.get("compute", {}), "launch": ["torchrun", "--nproc-per-node", "2"]}
    (fault,) = faults(settings, tmp_path)
    assert "finetuned_models.parallel_seeds: compute.launch already divides a training" in fault
