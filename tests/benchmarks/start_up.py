"""How long ``sau --help`` and a usage error take, as a whole process; run by ``make bench``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    runs = {"python -m this (nothing of ours)": ("this",)}
    runs |= {f"sau {words}": ("sau_cli", *words.split()) for words in ("--help", "purify --help", "purify --nonsense")}
    for name, words in runs.items():
        seconds(*words)
        times = [seconds(*words) for _ in range(9)]
        print(f"{name:<34} median {statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f}")


if __name__ == "__main__":
    main()
