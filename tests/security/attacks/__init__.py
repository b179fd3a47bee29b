"""The attacks that define the field (security.md 3), each as what a stranger does to one call."""
