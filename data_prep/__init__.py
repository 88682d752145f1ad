"""From text to tokenized shards: corpora -> tokenizer -> encode -> manifest. Writes through ``ibnorm_megatron.data``."""
