"""Child processes and their owners, what they tell, and Spark's jobs and Python workers."""
