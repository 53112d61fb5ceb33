from dspy.utils import callback as callback
from dspy.utils import exceptions as exceptions
