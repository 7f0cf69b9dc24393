"""Opens pages of a finished project in Chromium as a phone and a desktop screen show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LAYOUT = Path(__file__).with_name("layout.js").read_text(encoding="utf-8")
LOCAL = re.compile(r"(file|data|blob):|(http|ws)://127\.0\.0\.1[:/]")
PHONE, DESKTOP = (390, 844), (1440, 900)
Visit = Callable[..., Any]


@pytest.fixture(params=[f"{width} {scheme}" for width in (PHONE[0], DESKTOP[0]) for scheme in ("light", "dark")])
def visit(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Opens an address on a screen; at the end nothing has failed, complained or left this machine."""
    width, scheme = request.param.split()
    phone = int(width) == PHONE[0]
    size = dict(zip(("width", "height"), PHONE if phone else DESKTOP, strict=True))
    context = chromium.new_context(viewport=size, color_scheme=scheme, is_mobile=phone, has_touch=phone)
    faults: list[str] = []

    def check_message(message: Any) -> None:
        if message.type in ("error", "warning"):
            faults.append(message.text)

    def check_request(sent: Any) -> None:
        if not LOCAL.match(sent.url):
            faults.append(f"request to {sent.url}")

    def open_page(address: str, ready: str) -> Any:
        page = context.new_page()
        page.on("console", check_message)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", check_request)
        page.on("requestfailed", lambda sent: faults.append(f"failed: {sent.url}: {sent.failure}"))
        page.on(
            "response", lambda reply: faults.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None
        )
        page.goto(address)
        page.wait_for_selector(ready)
        assert page.evaluate("innerWidth") == int(width), "the page does not fit itself to a phone"
        return page

    yield open_page
    context.close()
    assert faults == []


def layout_faults(page: Any) -> list[str]:
    """What a person could not see or read on the page as it stands, closed parts opened."""
    page.eval_on_selector_all("details", "all => all.forEach(part => { part.open = true })")
    found: list[str] = page.evaluate(LAYOUT)
    return found
