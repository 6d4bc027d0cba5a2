"""What the miniature data is drawn with: real photos and digits from the libraries, and shapes of our own."""
