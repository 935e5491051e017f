"""Ways to send mail: each is a program that `benchmarks.bench` runs, to the contract in `commands`."""
