"""``python -m orchestrator`` is ``workspace``."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
