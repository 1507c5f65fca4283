"""``python -m hasp``: the same as the command ``hasp``."""

from hasp.cli import main

if __name__ == "__main__":
    main()
