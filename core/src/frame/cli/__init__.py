"""The command line: `frame serve`, `frame check`, `frame engines`."""

from frame.cli.main import main

__all__ = ["main"]
