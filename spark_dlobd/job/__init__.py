"""What is to be trained, on which rows, by which plan, until when: frozen data."""
