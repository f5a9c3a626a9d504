"""Texts that are likest to a question: by the words they share, or by an encoder's embeddings."""
