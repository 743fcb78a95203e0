"""`python -m saeaudit`, which is also what `torchrun -m saeaudit` runs."""

from saeaudit.cli.main import run

if __name__ == "__main__":
    run()
