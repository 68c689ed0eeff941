"""A headless Chromium that runs a script in a page and tells what came of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
WHY_NOT = "no Chromium is installed; the page is checked without a browser in test_page.py"


def dom_of(page: Path, *options: str) -> str:
    """The page as it stands after its scripts have run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [
        f"--user-data-dir={page.parent / 'profile'}",
        "--virtual-time-budget=2000",
        *options,
    ]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def run_in(page: Path, script: str, *options: str) -> Any:
    """What the body `script` of a function returns in the page, in plain values.

    The page's policy allows no script but its own, so the script runs in a copy that lifts it.
    """
    text, number = re.subn(r"'sha256-[^']*'", "'unsafe-inline'", page.read_text("utf-8"))
    assert number == 1
    probe = (
        '<pre id="told"></pre><script>document.getElementById("told").textContent = '
        f"JSON.stringify((() => {{ {script} }})());</script></body></html>"
    )
    copy = page.with_name(f"probed_{page.name}")
    copy.write_text(text.replace("</body></html>", probe), "utf-8")
    found = re.search(r'<pre id="told">(.*?)</pre>', dom_of(copy, *options), re.DOTALL)
    assert found
    return json.loads(unescape(found[1]))
