"""Lets `python -m gentool` run the program."""

import sys

from gentool.cli import main

sys.exit(main())
