"""Runs the program. Ctrl-C in the first tenth of a second, while modules are imported, ends it
quietly: `gentool.cli.main` listens from then on. Warnings of Python and its libraries are silent.
"""

import signal
import sys


def main() -> int:
    """Runs the command line of this process; gives its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import warnings

    if not sys.warnoptions:  # those of libraries are for who asks for them: an error says the same
        warnings.simplefilter("ignore")
    from gentool import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
