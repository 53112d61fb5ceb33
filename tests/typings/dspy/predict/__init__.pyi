from dspy.predict import parameter as parameter
