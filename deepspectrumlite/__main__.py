"""`python -m deepspectrumlite`."""

from deepspectrumlite.cli import main

main()
