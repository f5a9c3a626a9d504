"""Attention by backend: one function, several kernels that compute the same."""
