"""The API: HTTP routes by subject, each declared once for checking, the OpenAPI document and docs/api.md."""
