"""What crosses the wall between the tool server and everybody else.

Names, shapes, rules and errors, built on msgspec alone. Nothing here opens, connects, sleeps or awaits:
both sides import it, and importing it stays cheap.
"""

__version__ = "0.1.0"
