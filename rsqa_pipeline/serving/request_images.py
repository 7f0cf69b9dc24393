"""Images of requests: base64, data URLs and, for hosts that the operator has named, http URLs."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from PIL import Image

from rsqa_pipeline.images.decode import ImageFault, decode_image
from rsqa_pipeline.serving.limits import Limits, Refused

URL_SECONDS = 10.0


@dataclass(frozen=True)
class RequestImage:
    """A decoded image, and the hash of its stored bytes: requests that show the same image have it encoded once."""

    pixels: Image.Image
    digest: str


def read_image(source: str, limits: Limits, hosts: Collection[str], hold: Callable[[int], None]) -> RequestImage:
    """Decodes an image of a request.

    Args:
        source: base64, a data URL in base64, or an http URL whose host is one of ``hosts``.
        hold: called with the bytes of the decoded image.

    Raises:
        Refused: 400 or 413, with the reason of `ImageFault` or one of ``bad_base64``, ``url_refused``, ``url_failed``;
            and what ``hold`` raises.
    """
    data = _stored_bytes(source, limits, hosts)
    try:
        pixels = decode_image(data, "image", limits.max_image_pixels)
    except ImageFault as fault:
        raise Refused(413 if fault.reason == "too_large" else 400, fault.reason, fault.detail) from fault
    hold(pixels.width * pixels.height * 3)
    return RequestImage(pixels, hashlib.sha256(data).hexdigest())


def _stored_bytes(source: str, limits: Limits, hosts: Collection[str]) -> bytes:
    if source.startswith(("http://", "https://")):
        return _fetch(source, limits, hosts)
    encoded = source
    if source.startswith("data:"):
        head, comma, encoded = source.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Refused(400, "bad_base64", "a data URL must have the form data:image/png;base64,...")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "bad_base64", f"the image is not valid base64: {error}") from error
    if not data:
        raise Refused(400, "zero_bytes", "the image has no bytes; leave it out for text alone")
    return data


def _fetch(url: str, limits: Limits, hosts: Collection[str]) -> bytes:
    """The bytes behind a URL; no redirect is followed, so no other host is asked."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if host not in hosts:
        raise Refused(
            400,
            "url_refused",
            f"images of {host} are not fetched; send base64, or start the server with --image-host {host}",
        )
    data = bytearray()
    try:
        with httpx.stream("GET", url, timeout=URL_SECONDS, follow_redirects=False, trust_env=False) as reply:
            if reply.status_code != 200:
                raise Refused(400, "url_failed", f"{host} answered {reply.status_code}")
            for chunk in reply.iter_bytes():
                data += chunk
                if len(data) > limits.max_body_bytes:
                    raise Refused(413, "too_large", f"the image at {host} has more than {limits.max_body_bytes} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused(400, "url_failed", f"{host}: {error!r}") from error
    return bytes(data)
