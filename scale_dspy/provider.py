"""The old address of SCALE's LiteLLM handler: proxy files name `scale_dspy.provider.handler`."""

from scale_dspy.serve.provider import handler as handler
