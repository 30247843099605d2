"""Programs that show one workflow each; run them from the root of a checkout."""
