"""Programs that show one workflow each; ``spark-dlobd examples`` writes them to a folder."""
