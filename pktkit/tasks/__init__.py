"""Task definitions: the five of the embedded pair, and files of rows."""
