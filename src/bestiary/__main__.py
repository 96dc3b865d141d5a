"""`python -m bestiary` runs the command line."""

from bestiary.cli import main

if __name__ == "__main__":
    main()
