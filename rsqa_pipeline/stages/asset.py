"""What a stage and an asset are: the types of the table in `stages`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics

StageFunction = Callable[..., Metrics]
"""``run(inputs, out, settings, logger, **options) -> metrics``."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the assets of one folder of the library have in common."""

    name: str
    purpose: str
    owner: str
    tracked: bool = False
    """Trains or measures: each asset gets an MLflow run."""
    retried: bool = False
    """Asks a hub or a server, which can fail for a while and then work."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One output of the pipeline."""

    name: str
    stage: str
    description: str
    function: str
    """``module:function`` below ``rsqa_pipeline``."""
    inputs: tuple[str, ...] = ()
    """Upstream assets."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function, besides inputs, settings and logger."""
    settings: tuple[str, ...] = ()
    """Dotted keys of the profile that it reads besides ``name`` and ``seed``; it is stale when one of them changes."""
    sources: tuple[str, ...] = ()
    """Outside files and folders that it reads."""
    records: str | None = None
    """Record type of its main table."""
    checks: tuple[str, ...] = ()
    """Data-quality checks besides ``metrics_are_numbers`` (`data_quality.checks`)."""
    families: tuple[str, ...] = ()
    """Families of preference pairs that it must hold."""
    gpu: bool = False
    """Runs models: it takes the pool ``gpu``, and is stale when ``compute`` changes."""

    def folder(self, profile: Profile) -> Path:
        return profile.data / self.stage / self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of the profile that its output depends on."""
        return ("seed", *(("compute",) if self.gpu else ()), *self.settings)

    @property
    def module(self) -> str:
        """Module of its function, below ``rsqa_pipeline``."""
        return self.function.partition(":")[0]

    def load(self) -> StageFunction:
        """Imports its function."""
        module = importlib.import_module(f"rsqa_pipeline.{self.module}")
        function: StageFunction = getattr(module, self.function.partition(":")[2])
        return function
