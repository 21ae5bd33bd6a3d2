"""`python -m dougong`: the same as the command `dougong`."""

from dougong.launcher.cli import main

if __name__ == "__main__":
    main()
