"""An image as a chat server takes it."""

from __future__ import annotations

import base64
import io

from PIL import Image

from rsqa_pipeline.images.decode import open_image

LONGEST_SIDE = 2048
"""Pixels; what is larger is shrunk. Servers refuse bodies of some 20 MB and look at no more than this."""


def data_uri(reference: str) -> str:
    """The image as a ``data:image/jpeg;base64,...`` address, at most `LONGEST_SIDE` pixels a side.

    Raises:
        ImageFault: see `open_image`.
    """
    image = open_image(reference)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
