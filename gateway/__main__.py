"""Entry point of `condor-gateway` and `python -m gateway`."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from gateway.cli import run_command_line

    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
