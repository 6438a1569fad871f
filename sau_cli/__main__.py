"""The command ``sau``; ``python -m sau_cli`` is the same."""

from __future__ import annotations

import sys

from sau_cli.errors import ExitCode


def main() -> None:
    """Run the command line and exit, with 130 also where Ctrl-C comes while it is still being imported."""
    try:
        from sau_cli import app

        app.main()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
