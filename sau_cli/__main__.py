"""``python -m sau_cli`` is the command ``sau``."""

from sau_cli.app import main

if __name__ == "__main__":
    main()
