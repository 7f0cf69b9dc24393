"""Makes one asset again and again in a process of its own: ``writer.py SETTINGS_JSON ROUNDS``; prints one line per
round: the data version, or the refusal."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.materialize import materialize
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger


def main(settings: str, rounds: int) -> None:
    profile = Profile.model_validate(json.loads(Path(settings).read_text(encoding="utf-8")))
    asset = assets_of(profile)["text_preferences"]
    moments = random.Random(settings)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(rounds):
        try:
            print(materialize(profile, asset, {}, SilentLogger(), force=True).manifest.data_version)
        except DataError as error:
            print(f"refused: {error}")
        time.sleep(moments.uniform(0, 0.02))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
