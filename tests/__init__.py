"""All tests of the product.

Python writes the compiled files of what it imports here, whatever the environment says: without them every worker of a run
would compile all tests, and every process that a test starts all of the product.
"""

import os
import sys

sys.dont_write_bytecode = False
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
