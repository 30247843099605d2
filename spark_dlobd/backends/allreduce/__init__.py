"""What the ways of allreduce share: a gang's task, the program of a rank, attendance."""
