"""The table of operations as documents for others: JSON Schema and OpenAPI."""
