"""Hugging Face folders: config.json and safetensors in and out, by one table per family."""
