"""Is an answer right, and what was truly hard?"""
