"""Rows for fine-tuning: read from files, recognised by their columns, tokenised and packed.

    files --read--> columns --formats--> items --objective.encode--> Examples --packing--> Packs

An item is what a row says, still text. Examples are arrays of token ids, made once when a run
starts. Packs say which of them share a row of the batch.
"""
