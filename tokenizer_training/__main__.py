"""`python -m tokenizer_training`."""

from tokenizer_training.cli import main

raise SystemExit(main())
