"""Encodes an image for a chat server."""

from __future__ import annotations

import base64
import io

from PIL import Image

from rsqa_pipeline.images.decode import open_image

MAX_SIDE = 2048
"""Pixels; larger images are shrunk. Servers refuse bodies of about 20 MB and do not use more pixels than this."""


def data_uri(reference: str) -> str:
    """The image as a ``data:image/jpeg;base64,...`` URI, at most `MAX_SIDE` pixels per side.

    Raises:
        ImageFault: see `open_image`.
    """
    image = open_image(reference)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
