"""Language modelling on whole documents, comparable across tokenizers."""
