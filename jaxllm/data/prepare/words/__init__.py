"""What a word is, and what is counted in words."""
