"""What travels through the shuffle, as bytes. Pure."""
