"""What a fuzzer is pointed at: everything that reads what may come from anyone."""
