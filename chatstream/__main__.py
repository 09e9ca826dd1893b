"""`python -m chatstream`: the command, where it is not on the path."""

from chatstream.cli.commands import main

main(prog_name="chatstream")
