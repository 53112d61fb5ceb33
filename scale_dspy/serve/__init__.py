"""SCALE as a model behind an OpenAI endpoint."""
