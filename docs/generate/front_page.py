"""The transcript and the picture at the top of the README: a model with a backdoor, inspected.

    python docs/generate/front_page.py

Minutes on 2 cores. The picture is made where Chromium is installed, and else kept as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
PLANT = "attack --attack blended --arch small_cnn --data digits -o received.safetensors"
INSPECT = "inspect received.safetensors --report report.html"
MARKED = re.compile(r"(<!-- transcript -->\n).*?(<!-- end of transcript -->)", re.DOTALL)
WIDTH, HEIGHT = 1000, 900
LEFT_OUT = "File"
"""From the heading that begins so to the checks, which are what the page is about."""


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "COLUMNS": "150"}
    words = [sys.executable, "-m", "sau_cli", *command.split()]
    return subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def transcript(said: str, code: int) -> str:
    """What people see, without lines of progress and without the facts of the file."""
    lines = [line.rstrip() for line in said.splitlines() if not re.search(r"  \d+ s(, \d+ s left)?$", line)]
    starts = [place for place, line in enumerate(lines) if line.startswith(LEFT_OUT)]
    ends = [place for place, line in enumerate(lines) if line.startswith("Checks")]
    if starts and ends:
        lines[starts[0] : ends[0]] = ["[...]", ""]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return f"\n```console\n$ sau {INSPECT}\n{text}\n$ echo $?\n{code}\n```\n\n"


def take_picture(page: Path, out: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium here: the picture is as it was")
        return
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        flags += ["--no-first-run", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
        flags += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={out}", page.as_uri()]
        subprocess.run([browser, *flags], check=True, capture_output=True)
    from PIL import Image

    with Image.open(out) as picture:
        shown_until(picture.convert("RGB")).quantize(64).save(out, optimize=True)


def shown_until(picture: Image.Image) -> Image.Image:
    """Without the empty part below, where the browser has its own frame."""
    from PIL import Image, ImageChops

    below = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, below).getbbox()
    return picture.crop((0, 0, picture.width, box[3])) if box else picture


def main() -> None:
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = run(PLANT, folder)
        if planted.returncode != 0:
            sys.exit(planted.stderr)
        done = run(INSPECT, folder)
        shown = transcript(done.stderr + done.stdout, done.returncode)
        text = readme.read_text(encoding="utf-8")
        readme.write_text(MARKED.sub(lambda found: found[1] + shown + found[2], text), encoding="utf-8")
        (ROOT / "docs" / "assets").mkdir(exist_ok=True)
        take_picture(folder / "report.html", ROOT / "docs" / "assets" / "report.png")


if __name__ == "__main__":
    main()
