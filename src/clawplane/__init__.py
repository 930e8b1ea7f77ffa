"""A self-hosted execution plane for Workers, code sessions and host tasks."""

__version__ = "0.1.0"
