"""Simulation study of the statistics: coverage, false-positive rate and power of every rule of inference.

    python check_statistics.py                # 2,000 studies per line, two to four minutes on one core
    python check_statistics.py --studies 20000 --json simulation.json --markdown simulation.md

Every case (simulations/cases.py) simulates studies with known truth and applies to them the functions that the analysis
uses. A rate is as promised if it is within two Monte Carlo standard errors of its bound (three of a predicted power). A
test with a true level of 5% misses this in one line of 40, so a case that misses it is simulated again, with a new seed
and four times the studies, and the second run counts. The exit status is 1 if that misses too. Cases in which a promise is
known to break are marked in the tables and do not count.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

from pathlib import Path

from tqdm import tqdm

from common import scripts
from common.errors import UserError
from simulations import cases, tables


def main(argv=None) -> int:
    parser = scripts.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per line (default: 2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every line as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    args = parser.parse_args(argv)
    if args.studies < 100:
        raise UserError(f"--studies {args.studies}: at least 100 are needed for a meaningful rate")
    for path in (args.json, args.markdown):
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"the folder of {path} does not exist")
    every_case = list(cases.cases())
    lines = [line for case in tqdm(every_case, unit="case", disable=None) for line in cases.run(*case, args.studies)]
    text = tables.markdown(lines, args.studies)
    print(text)
    if args.json or args.markdown:
        from common import files, json_files

        if args.json:
            json_files.write_json(args.json, {"studies": args.studies, "seed": cases.SEED, "lines": lines})
        if args.markdown:
            files.write_atomically(args.markdown, text.encode())
    broken = sum(line["kept"] is False and not line["limit"] for line in lines)
    limits = sum(line["kept"] is False and line["limit"] for line in lines)
    print(f"{sum(line['kept'] is True for line in lines)} promises kept, {limits} known limits, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    scripts.run(main)
