"""What a run will take before it starts: laws, shapes, memory, time, money. Arithmetic alone: nothing here needs torch."""
