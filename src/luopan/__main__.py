"""`python -m luopan` is the command line."""

from luopan.cli.main import main

if __name__ == "__main__":
    main()
