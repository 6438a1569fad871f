"""How a model's path, a data spec, a trigger and a number go through the code, counted on real runs.

    python tests/benchmarks/walks.py

A stop is a call into another module than the last stop's, with what is followed among its arguments, as itself or in a
list or mapping of them; a return is a stop in a module where it has been before. Openings of a file are counted by
the kernel, those by libraries in C included; a hash counts where as many bytes went into it as the file has. With
``PYTHONPATH=OLD:OLD/adapters`` it counts on another version. Works on Linux alone; a few minutes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

SUPPORT = Path(__file__).resolve().parents[1] / "support"
OURS = ("sau_cli", "sau_adapters")
MODEL, DATA, TRIGGER, EPSILON = "m.pth", "clean.npz", "m.trigger.safetensors", "0.123"
OPENED = ("--arch", "small_cnn", "--normalisation", "none", "--data", DATA)
SHORT = ("--method", "ft-sam", "--epochs", "1", "-o", "out.safetensors")
COMMANDS = {
    "inspect": ("inspect", MODEL, *OPENED, "--effort", "quick"),
    "purify": ("purify", MODEL, *OPENED, *SHORT),
    "evaluate": ("evaluate", MODEL, *OPENED, "-t", TRIGGER),
    "export": ("export", MODEL, *OPENED, "-o", "out.onnx"),
    "attack": ("attack", MODEL, *OPENED, "--attack", "badnets", "--epochs", "1", "-o", "out.safetensors"),
    "purify --epsilon": ("purify", MODEL, *OPENED, *SHORT[2:], "--recipe", "paper", "--epsilon", EPSILON),
}
WALKS = (
    *((MODEL, command) for command in ("inspect", "purify", "evaluate", "export", "attack")),
    *((DATA, command) for command in ("inspect", "purify", "evaluate", "export", "attack")),
    (TRIGGER, "evaluate"),
    (EPSILON, "purify --epsilon"),
)


def is_it(followed: str) -> Callable[[Any], bool]:
    """Whether a value is what is followed, or a list or mapping with it in."""
    if followed.replace(".", "").isdigit():
        wanted: set[Any] = {float(followed)}
    else:
        wanted = {followed, Path(followed), str(Path(followed).absolute()), Path(followed).absolute()}

    def found(value: Any, *, inside: bool = True) -> bool:
        if isinstance(value, str | Path | float):
            return value in wanted
        if inside and isinstance(value, list | tuple):
            return any(found(part, inside=False) for part in value[:100])
        return inside and isinstance(value, dict) and any(found(part, inside=False) for part in value.values())

    return found


def followed_calls(followed: str, modules: list[str]) -> Callable[[FrameType, str, Any], None]:
    """A profiler that adds the module of every call with this among its arguments."""
    found = is_it(followed)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith(OURS):
            return
        code = frame.f_code
        starred = bool(code.co_flags & 4) + bool(code.co_flags & 8)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + starred]
        if any(found(frame.f_locals.get(name)) for name in names):
            modules.append(module)

    return watch


def count(followed: str, command: str) -> None:
    """One walk, in this process."""
    sys.path.append(str(SUPPORT))
    from openings import counted_openings, counting_sha256

    sizes: Counter[int] = Counter()
    hashlib.sha256 = counting_sha256(sizes)  # type: ignore[assignment, misc]
    from sau_cli.app import main as sau

    modules: list[str] = []
    files = [Path(followed)] if Path(followed).exists() else []
    with counted_openings(*files) as opened:
        sys.setprofile(followed_calls(followed, modules))
        try:
            sau([*COMMANDS[command], "-q"])
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.setprofile(None)
    stops = [module for module, before in zip(modules, [None, *modules], strict=False) if module != before]
    rooms = len(set(stops))
    hashed = sizes[files[0].stat().st_size] if files else 0
    told = f"{followed:<22} {command:<18} {len(stops):>5} {rooms:>5} {len(stops) - rooms:>7}"
    print(told + f" {opened[followed]:>6} {hashed:>6}   exit {code}", flush=True)


def main() -> None:
    if len(sys.argv) == 3:
        count(*sys.argv[1:])
        return
    print(f"{'followed':<22} {'command':<18} stops rooms returns opened hashed", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        where = {"cwd": folder, "env": {**os.environ, "SAU_CACHE_DIR": f"{folder}/cache"}}
        planting = ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "--epochs", "15")
        subprocess.run([sys.executable, "-m", "sau_cli", *planting, "-o", "m.safetensors", "-q"], check=True, **where)
        subprocess.run([sys.executable, "-c", FILES], check=True, **where)
        for walk in WALKS:
            for left in Path(folder).glob("out*"):
                left.unlink()
            done = subprocess.run(
                [sys.executable, __file__, *walk], capture_output=True, text=True, check=False, **where
            )
            print(done.stdout or done.stderr, end="", flush=True)


FILES = """
import numpy, torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
torch.save({"state_dict": load_file("m.safetensors")}, "m.pth")
digits = load_digits()
pixels = (digits.images[:400] * (255 / 16)).round().astype("uint8")
numpy.savez("clean.npz", images=pixels, labels=digits.target[:400])
"""


if __name__ == "__main__":
    main()
