"""``python -m hasp_models``: the same as the command ``hasp-models``."""

from hasp_models.cli import main

if __name__ == "__main__":
    main()
