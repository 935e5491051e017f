"""What is asked. Each file is a question: `ask(bench)` measures."""
