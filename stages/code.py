"""Write the digest of each stage's code to code.yaml, which DVC reads as a parameter of the stage."""

from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.runtime.stage_code import Code, code_text


def main(package: In, stages: In, code: Out) -> None:
    code.write_text(code_text(Code(package, stages)))


if __name__ == "__main__":
    run(main)
