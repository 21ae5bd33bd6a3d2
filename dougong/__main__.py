"""`python -m dougong`: the same as the command `dougong`."""

from dougong.cli.main import main

if __name__ == "__main__":
    main()
