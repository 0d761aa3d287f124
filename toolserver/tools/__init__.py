"""What operations do, one file per family: the rule first, pure; the act below it, thin."""
