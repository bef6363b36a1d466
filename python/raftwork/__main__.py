"""`python -m raftwork`: the command line."""

from raftwork.cli.main import main

if __name__ == "__main__":
    main()
