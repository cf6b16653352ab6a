"""Entry point of `python -m gateway.lab.machines`. Rule: nothing but the call."""

import sys

from gateway.lab.machines.command import main

sys.exit(main())
