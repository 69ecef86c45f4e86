import sys

from gentool.cli import main

sys.exit(main())
