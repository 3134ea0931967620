"""`python -m ais` is the command `ais`."""

from ais.cli import main

if __name__ == "__main__":
    main()
