"""Where tokens come from, and how they are counted."""

import logging
import os

# httpx writes the address of every request into whatever log its user keeps.
logging.getLogger("httpx").setLevel(logging.WARNING)

# Without it LiteLLM tries to fetch a price list from the internet when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
