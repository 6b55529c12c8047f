"""The page of a served head: one file with its style and its script inside, which asks this server alone.

It is made from the report's own templates. Gradio was tried and left (docs/decisions/0021): any client can make a
Gradio server fetch an address, every upload is written to a folder, and Pillow would have to be an older one.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from histotune.report.page import page_environment, render_template

if TYPE_CHECKING:
    from histotune.deploy.answers import ModelFacts

TEMPLATE, STYLES, SCRIPTS = "serve.html.j2", ("style.css", "serve.css"), ("serve.js",)


def render_service_page(facts: ModelFacts, limit_bytes: int, no_map: str) -> str:
    """Return the page.

    Args:
        facts: What is served.
        limit_bytes: Most bytes of a request, which the page says before anything is sent.
        no_map: Why no map can be drawn; empty where one can.

    Returns:
        HTML that loads nothing; its script sends images to ``predict`` and ``explain`` of the same server.

    Example:
        >>> "serve.js" in render_service_page(facts, 1 << 20, "")  # doctest: +SKIP
        False
    """
    return render_template(
        page_environment(),
        TEMPLATE,
        STYLES,
        SCRIPTS,
        facts=facts,
        limit_mib=max(limit_bytes >> 20, 1),
        no_map=no_map,
        synthetic=facts.synthetic,
    )


def page_policy() -> str:
    """Return the content policy of the page: its own style and script by their hashes, and requests to this server.

    Pictures may be data (maps) or what the browser holds itself (the image that was dropped).

    Returns:
        The value of the header ``Content-Security-Policy``.

    Example:
        >>> page_policy().startswith("default-src 'none'; connect-src 'self'")
        True
    """
    environment = page_environment()
    hashes = []
    for names in (STYLES, SCRIPTS):
        text = "\n".join(environment.get_template(name).render().strip() for name in names)
        hashes.append(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
    return (
        f"default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
