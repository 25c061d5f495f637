"""`python -m seamline.sdk.cli` is `seamline`, also where the script is not on the path."""

from seamline.sdk.cli.main import run

if __name__ == "__main__":
    run()
