"""Typed settings. A profile file is the only place that settings come from."""

from rsqa_pipeline.profile.loading import (
    PROFILE_FOLDER,
    default_profile,
    known_profiles,
    limited_profile,
    load_profile,
    profile_path,
)
from rsqa_pipeline.profile.profile import (
    BestOfN,
    CaptionStep,
    ClipStep,
    Compute,
    FinetunedModels,
    InstructionStep,
    OpenEndedForm,
    Profile,
    ReasoningStep,
    RlPolicy,
    ScratchRecipe,
    ScratchSteps,
    TinyModels,
    TrainedPart,
    VlmStep,
)
from rsqa_pipeline.profile.score_model import ScoreModelSettings
from rsqa_pipeline.profile.source_pairs import Boxes, Corruption, Duplicates, SourceFile, SourcePairs
from rsqa_pipeline.profile.watch import Monitor, Monitors, Watch

__all__ = [
    "PROFILE_FOLDER",
    "BestOfN",
    "Boxes",
    "CaptionStep",
    "ClipStep",
    "Compute",
    "Corruption",
    "Duplicates",
    "FinetunedModels",
    "InstructionStep",
    "Monitor",
    "Monitors",
    "OpenEndedForm",
    "Profile",
    "ReasoningStep",
    "RlPolicy",
    "ScoreModelSettings",
    "ScratchRecipe",
    "ScratchSteps",
    "SourceFile",
    "SourcePairs",
    "TinyModels",
    "TrainedPart",
    "VlmStep",
    "Watch",
    "default_profile",
    "known_profiles",
    "limited_profile",
    "load_profile",
    "profile_path",
]
