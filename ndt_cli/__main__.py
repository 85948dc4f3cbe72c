"""``python -m ndt_cli`` is ``ndt``; torchrun starts its processes this way."""

from ndt_cli.app import main

if __name__ == "__main__":
    main()
