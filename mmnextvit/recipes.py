"""One of our configs with another image size, classes, epochs or batch."""
