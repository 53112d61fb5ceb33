"""Where tokens come from, and how they are counted."""

import logging

# httpx writes the address of every request into whatever log its user keeps.
logging.getLogger("httpx").setLevel(logging.WARNING)
