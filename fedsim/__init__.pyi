"""What `fedsim.__getattr__` finds, for type checkers and editors."""

from fedsim.api.run import Run as Run
from fedsim.api.run import load as load
from fedsim.api.run import run as run
from fedsim.api.run import sweep as sweep
from fedsim.errors import UserError as UserError

__version__: str
