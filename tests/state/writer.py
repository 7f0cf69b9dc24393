"""Makes one asset a number of times in a process of its own: ``writer.py SETTINGS_JSON TIMES LINES``. Writes a line per
attempt to the file LINES: the data version, or the refusal, after which it tries again."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from rsqa_pipeline.errors import ProfileBusy
from rsqa_pipeline.materialization.materialize import materialize
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger


def main(settings: str, times: int, lines: Path) -> None:
    profile = Profile.model_validate(json.loads(Path(settings).read_text(encoding="utf-8")))
    asset = assets_of(profile)["text_preferences"]
    moments = random.Random(settings)
    print("ready", flush=True)
    sys.stdin.readline()
    made = 0
    with lines.open("w", encoding="utf-8") as file:
        while made < times:
            try:
                line = materialize(profile, asset, {}, SilentLogger(), force=True).manifest.data_version
                made += 1
            except ProfileBusy as error:
                line = f"refused: {error}"
            file.write(line + "\n")
            time.sleep(moments.uniform(0, 0.05))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
