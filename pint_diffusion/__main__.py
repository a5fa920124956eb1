"""``python -m pint_diffusion`` is ``pint-diffusion``."""

import sys

from pint_diffusion.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
