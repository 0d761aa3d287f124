"""Other programs with the same work, each in an environment of its own, each behind the same few verbs."""
