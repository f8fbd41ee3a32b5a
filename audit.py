"""Tests every claim of the 2025 report and writes up the answers.

    python audit.py                       # from the studies shipped in results/reference
    python audit.py --write               # the same, and write docs/audit.md with its figures
    python audit.py results/published results results/architectures --timing results/timing.json
    python analyze_results.py --audit results/published results

claims/claims.json contains the claims, the report's values and the tolerances; the modules of claims/ test them and
write the document; audit_timing.py creates the timing file. A study is recognized by its identity: the published
protocol with the report's configuration and seeds, a matched study of the same configuration, several architectures, or
the full-size model. Other studies are not used, and listed. Exit status: 0 whatever the verdicts, 2 invalid command.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

from collections.abc import Sequence
from pathlib import Path

from common import files, scripts
from common.errors import UserError


def run(studies: Sequence[Path], timing: Path | None = None, output: Path | None = None) -> int:
    """Tests every claim, prints the answers, and returns the exit status, 0.

    studies: folders of studies, possibly with a timing file among them. output: Markdown file to write, with its figures
    in a folder next to it; None: no file.
    """
    from claims.document import FIGURES, draw_figures, markdown, terminal_text
    from claims.evidence import answer, gather, read_claims

    evidence, (claims, tables) = gather(studies, timing), read_claims()
    answers = [answer(claim, evidence) for claim in claims]
    scripts.say(terminal_text(evidence, claims, answers, tables))
    if output is not None:
        text = markdown(evidence, claims, answers, tables)
        draw_figures(evidence, tables, Path(output).parent / FIGURES)
        files.write_atomically(Path(output), text.encode())
        print(f"written: {output}")
    return 0


def parser():
    p = scripts.Parser(prog="audit.py", description="Test every claim of the 2025 report.")
    p.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="folders (default: the shipped ones)")
    p.add_argument(
        "--timing", type=Path, metavar="FILE", help="file written by audit_timing.py (default: the shipped one)"
    )
    p.add_argument("--output", type=Path, metavar="FILE", help="write the answers as Markdown, with figures next to it")
    p.add_argument("--write", action="store_true", help="write docs/audit.md from the shipped studies")
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.write and (args.studies or args.timing or args.output):
        raise UserError("--write uses the shipped studies and writes docs/audit.md; leave out everything else")
    from claims.evidence import DOCUMENT, shipped  # imports torch, which --help does not need

    studies, timing = (args.studies, args.timing) if args.studies else shipped()
    if not studies:
        raise UserError("results/reference contains no study of the report's text; give the folders of studies")
    return run(studies, args.timing or timing, DOCUMENT if args.write else args.output)


if __name__ == "__main__":
    scripts.run(main)
