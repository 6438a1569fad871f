"""The peak memory of ``sau export``, as a whole process, against the size of the model's weights.

    python -m tests.benchmarks.export_memory [--megabytes 500]

A chain of linear layers on digits, saved as safetensors; the process exports and verifies it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 1024
NETWORK = f"""
import torch
from torch import nn

class Chain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Linear(64, {SIDE})
        self.layers = nn.ModuleList(nn.Linear({SIDE}, {SIDE}) for _ in range(LAYERS))
        self.last = nn.Linear({SIDE}, num_classes)

    def forward(self, x):
        x = self.first(x.flatten(1))
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.last(x)
"""
SAVE = """
import sys
import torch
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from chain import Chain
torch.manual_seed(0)
save_file(Chain(10).state_dict(), sys.argv[1] + "/m.safetensors")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("flags", nargs="*", help="more for sau export, after --")
    options = parser.parse_args()
    layers = options.megabytes * 1_000_000 // (4 * SIDE * SIDE)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "chain.py").write_text(NETWORK.replace("LAYERS", str(layers)), encoding="utf-8")
        subprocess.run([sys.executable, "-c", SAVE, folder], check=True)
        size = (place / "m.safetensors").stat().st_size
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        words = ["export", "m.safetensors", "-o", "m.onnx", "--data", "digits", "--normalisation", "none"]
        words += ["--arch", "chain.py:Chain", *options.flags]
        start = time.perf_counter()
        # What the saving took counts as a child's too: the export is the child of a process of its own.
        peak = _peak([sys.executable, "-m", "sau_cli", *words], place)
        seconds = time.perf_counter() - start
        files = ", ".join(f"{file.name} {file.stat().st_size / 1e6:,.0f} MB" for file in sorted(place.glob("m.onnx*")))
    print(f"weights {size / 1e6:,.0f} MB, peak {peak / 1e6:,.0f} MB, {peak / size:.2f} times; {seconds:.0f} s; {files}")
    print(f"(the process that saved the weights took {before / 1e3:,.0f} MB)")


def _peak(words: list[str], folder: Path) -> int:
    """Bytes that a process had at most, from its exit status."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'adapters'}"}
    process = subprocess.Popen(words, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"sau export ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
