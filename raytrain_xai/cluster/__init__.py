"""Kubernetes manifests made from values: documents as plain dictionaries, checked by the schemas in the tests."""
