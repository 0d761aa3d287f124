"""The messages, one file per family of operations; ``base`` holds what they share."""
