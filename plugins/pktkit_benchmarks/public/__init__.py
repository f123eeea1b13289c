"""Public benchmarks as tasks: MMLU, GSM8K, HumanEval and MBPP."""
