"""Where tokens come from, and how they are counted."""

import logging
import os

# By default httpx logs the address of every request.
logging.getLogger("httpx").setLevel(logging.WARNING)

# Without this, LiteLLM tries to fetch a price list from the internet when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
