"""Make the files of this folder again: what ``sau`` writes in its schema 1, in a minute.

Files of a schema are made once and kept: every later version has to read them. Run this in an empty folder to see what
today's version writes:

    python tests/compat/schema_1/make.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sau_cli.app import main

ARCH = ("--arch", "network.py:Tiny")
COMMANDS = (
    ("attack", "--attack", "badnets", *ARCH, "--data", "digits", "--epochs", "10", "-o", "planted.safetensors"),
    (
        *("purify", "planted.safetensors", *ARCH, "--clean-frac", "0.2", "--method", "ft-sam", "--epochs", "4"),
        *("--time-budget", "1s", "-o", "halfway.safetensors"),
    ),
    ("purify", "planted.safetensors", *ARCH, "--clean-frac", "0.2", "--method", "ft-sam", "--epochs", "2"),
    ("export", "planted.purified.safetensors", *ARCH, "-o", "exported.onnx"),
    (
        *("evaluate", "planted.purified.safetensors", *ARCH, "--reference", "planted.safetensors"),
        *("--trigger", "planted.trigger.safetensors", "--json", "report.json"),
    ),
    *(
        ("inspect", name, "--effort", "quick", "--json", f"{name}.inspect.json")
        for name in ("planted.safetensors", "halfway.safetensors", "planted.purified.safetensors", "exported.onnx")
    ),
)


def make(folder: Path) -> None:
    """Write the files into a folder."""
    shutil.copy(Path(__file__).with_name("network.py"), folder)
    os.chdir(folder)
    for words in COMMANDS:
        try:
            main([*words, "--quiet"])
        except SystemExit as ended:
            if ended.code not in {0, 6}:  # a budget that is spent is 6, and so is a model that is not cleared
                raise


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
