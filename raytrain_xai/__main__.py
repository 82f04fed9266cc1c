"""``python -m raytrain_xai``: the console script, for where it is not installed."""

from raytrain_xai.cli.main import main

if __name__ == "__main__":
    main()
