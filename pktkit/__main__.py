"""`python -m pktkit` is the `pktkit` command."""

from pktkit.cli import main

if __name__ == "__main__":
    main(prog_name="pktkit")
