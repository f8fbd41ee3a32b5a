"""The report's claims, each put to the test, and the answers written up.

    python audit.py                       # from the studies that the project ships in results/reference
    python audit.py --write               # the same, and docs/audit.md with its figures
    python audit.py results/published results results/architectures --timing results/timing.json
    python analyze_results.py --audit results/published results

claims/claims.json holds the claims, the report's values and the tolerances; the modules of claims/ test them and write
the answers up; audit_timing.py makes the timing file. A study is recognised by its
identity: the published protocol with the report's configuration and seeds, a matched study of the same configuration,
several architectures, or the full-size model. What fits none of these is not used, and named. Exit status: 0 whatever
the verdicts, 2 a mistake in the command.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

from collections.abc import Sequence
from pathlib import Path

from common import files, scripts
from common.errors import UserError


def run(studies: Sequence[Path], timing: Path | None = None, output: Path | None = None) -> int:
    """Tests every claim, prints the answers, and returns the exit status, 0.

    studies: folders of studies; a timing file may stand among them. output: a Markdown file to write, its figures go
    into a folder next to it; None: none.
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
    p = scripts.Parser(prog="audit.py", description="Test every claim of the report on studies of it.")
    p.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="folders (default: those shipped)")
    p.add_argument("--timing", type=Path, metavar="FILE", help="what audit_timing.py wrote (default: the one shipped)")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the answers as Markdown, with figures next to it")
    p.add_argument("--write", action="store_true", help="write docs/audit.md from the studies shipped")
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.write and (args.studies or args.timing or args.output):
        raise UserError("--write takes the studies shipped and writes docs/audit.md; leave out everything else")
    from claims.evidence import DOCUMENT, shipped  # not before: --help needs no torch

    studies, timing = (args.studies, args.timing) if args.studies else shipped()
    if not studies:
        raise UserError("results/reference holds no study of the report's text; name the folders of studies")
    return run(studies, args.timing or timing, DOCUMENT if args.write else args.output)


if __name__ == "__main__":
    scripts.run(main)
