"""`python -m ops`: the command line, where its script is not on PATH."""

from ops.cli import main

if __name__ == "__main__":
    main()
