"""What is wrong with a config's data, found before it is trained."""
