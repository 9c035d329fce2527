"""N-gram language models with modified Kneser-Ney smoothing: trained, written and read as ARPA files, and scored."""
