"""`python -m backbench` is the command `backbench`."""

from backbench.cli import main

if __name__ == "__main__":
    main()
